-- A user's dehydrated device (MSC3814): what a client needs to become that device, encrypted by the client. Its keys and messages lie
-- with those of other devices.

-- +goose Up
CREATE TABLE dehydrated_device (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    device_id text    NOT NULL COLLATE "C",
    data      bytea   NOT NULL, -- JSON
    PRIMARY KEY (part, user_id)
);

-- +goose Down
DROP TABLE dehydrated_device;
