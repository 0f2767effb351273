-- Through which server a user knocked on a room that we are not in: it is the one that can take the knock back.

-- +goose Up
ALTER TABLE membership ADD via text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE membership DROP via;
