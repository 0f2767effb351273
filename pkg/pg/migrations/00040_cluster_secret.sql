-- +goose Up
-- A secret that all workers of the cluster know, and nobody else: on the first shard one row, made by the first worker that
-- needs it (pkg/mac); on the others none.
CREATE TABLE cluster_secret (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    secret     bytea NOT NULL CHECK (octet_length(secret) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE cluster_secret;
