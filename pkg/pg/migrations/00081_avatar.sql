-- Whose avatar a file is: what administrators delete by date and size leaves avatars alone.

-- +goose NO TRANSACTION
-- +goose Up
DROP INDEX CONCURRENTLY IF EXISTS account_avatar; -- of an attempt that was broken off
CREATE INDEX CONCURRENTLY account_avatar ON account (part, avatar_url) WHERE avatar_url IS NOT NULL;

-- +goose Down
DROP INDEX CONCURRENTLY account_avatar;
