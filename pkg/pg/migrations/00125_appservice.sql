-- Application services that were added by command (pkg/appservice): on the first shard; the tables of the others stay empty.

-- +goose Up
CREATE TABLE appservice (
    id           text   PRIMARY KEY COLLATE "C",
    registration text   NOT NULL, -- JSON, with the SHA-256 of the as_token, and the hs_token as it is
    changed_ts   bigint NOT NULL
);

-- Raised by each change, which it orders; workers compare it with what they have read.
CREATE TABLE appservice_store (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO appservice_store (version) VALUES (0);

-- +goose Down
DROP TABLE appservice_store, appservice;
