-- Whose avatar a file is: what administrators delete by date and size leaves avatars alone.

-- +goose Up
CREATE INDEX account_avatar ON account (part, avatar_url) WHERE avatar_url IS NOT NULL;

-- +goose Down
DROP INDEX account_avatar;
