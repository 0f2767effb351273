-- Events and EDUs that a destination has refused for good: they are not sent there again, whoever has the destination.

-- +goose Up
CREATE TABLE destination_refused (
    part        integer NOT NULL,                 -- of the destination
    server_name text    NOT NULL COLLATE "C",
    item        bytea   NOT NULL,                 -- SHA-256 of what the event or EDU is known by
    PRIMARY KEY (part, server_name, item)
);

-- +goose Down
DROP TABLE destination_refused;
