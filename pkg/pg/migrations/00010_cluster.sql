-- +goose Up
-- What this database is: one row, written when the cluster is created and never changed. Every process compares it
-- with its configuration before it does anything else.
CREATE TABLE cluster (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cluster_id text NOT NULL,
    partitions integer NOT NULL,
    shard      integer NOT NULL,
    shards     integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE cluster;
