-- Media. A file that users share is a row in the partition of "<origin>/<media id>"; its bytes are an object in the object store.
-- Media with the same bytes share one object: table media_blob, in the partition of the hash, says which, and media_blob_ref who
-- uses it. An object has a row before it exists and until it is gone, so that the store holds nothing that nobody knows of.

-- +goose Up
CREATE TABLE media (
    part         integer  NOT NULL,
    origin       text     NOT NULL COLLATE "C",
    media_id     text     NOT NULL COLLATE "C",
    state        smallint NOT NULL,             -- 0 reserved, 1 arriving, 2 all bytes arrived, 3 ready
    remote       boolean  NOT NULL DEFAULT false,
    user_id      text     COLLATE "C",          -- who uploaded it; null: nobody of ours
    object       text     NOT NULL DEFAULT '',  -- key in the object store
    hash         bytea,                         -- SHA-256
    bytes        bigint   NOT NULL DEFAULT 0,
    type         text     NOT NULL DEFAULT '',
    name         text     NOT NULL DEFAULT '',  -- file name
    created_ts   bigint   NOT NULL,
    touched_ts   bigint   NOT NULL,             -- of the last change of state: reserved, begun, or ready
    accessed_ts  bigint   NOT NULL,             -- last use, to the hour
    quarantined_by text   COLLATE "C",
    protected    boolean  NOT NULL DEFAULT false, -- is not quarantined with others
    PRIMARY KEY (part, origin, media_id)
) WITH (fillfactor = 90);
CREATE INDEX media_unfinished ON media (part, touched_ts) WHERE state < 3;
CREATE INDEX media_accessed ON media (part, remote, accessed_ts) WHERE state = 3;
CREATE INDEX media_user ON media (part, user_id, created_ts) WHERE user_id IS NOT NULL;

-- What lies in a partition of each user (by user id) and of each server (by server name).
CREATE TABLE media_usage (
    part  integer NOT NULL,
    who   text    NOT NULL COLLATE "C",
    items bigint  NOT NULL,
    bytes bigint  NOT NULL,
    PRIMARY KEY (part, who)
) WITH (fillfactor = 50);

CREATE TABLE media_thumbnail (
    part     integer NOT NULL,
    origin   text    NOT NULL COLLATE "C",
    media_id text    NOT NULL COLLATE "C",
    spec     text    NOT NULL COLLATE "C",      -- size, method, whether it is animated
    object   text    NOT NULL,
    bytes    bigint  NOT NULL,
    type     text    NOT NULL,
    PRIMARY KEY (part, origin, media_id, spec)
);

CREATE TABLE media_blob (
    part   integer NOT NULL,
    hash   bytea   NOT NULL,
    object text    NOT NULL,
    bytes  bigint  NOT NULL,
    PRIMARY KEY (part, hash)
);

CREATE TABLE media_blob_ref (
    part     integer NOT NULL,
    hash     bytea   NOT NULL,
    origin   text    NOT NULL COLLATE "C",
    media_id text    NOT NULL COLLATE "C",
    PRIMARY KEY (part, hash, origin, media_id)
);

-- Objects that nobody uses any more and that have to be deleted from the store.
CREATE TABLE media_garbage (
    part   integer NOT NULL,
    object text    NOT NULL COLLATE "C",
    PRIMARY KEY (part, object)
);

-- +goose Down
DROP TABLE media_garbage, media_blob_ref, media_blob, media_thumbnail, media_usage, media;
