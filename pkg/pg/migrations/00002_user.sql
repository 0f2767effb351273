-- Users: every row lies in the user's partition. A change that the user's clients must see raises user_stream.seq
-- first, in the same transaction: the row lock orders writers, whatever worker they run in.

-- +goose Up
CREATE TABLE account (
    part           integer NOT NULL,
    user_id        text    NOT NULL COLLATE "C",
    password_hash  text    NOT NULL DEFAULT '',  -- argon2id, PHC string; empty: no password login
    admin          boolean NOT NULL DEFAULT false,
    guest          boolean NOT NULL DEFAULT false,
    deactivated    boolean NOT NULL DEFAULT false,
    erased         boolean NOT NULL DEFAULT false,
    appservice_id  text    NOT NULL DEFAULT '',
    displayname    text,
    avatar_url     text,
    profile        jsonb   NOT NULL DEFAULT '{}', -- further profile fields
    created_ts     bigint  NOT NULL,
    PRIMARY KEY (part, user_id)
);

CREATE TABLE user_stream (
    part    integer NOT NULL,
    user_id text    NOT NULL COLLATE "C",
    seq     bigint  NOT NULL,
    PRIMARY KEY (part, user_id)
) WITH (fillfactor = 50);

CREATE TABLE device (
    part         integer NOT NULL,
    user_id      text    NOT NULL COLLATE "C",
    device_id    text    NOT NULL COLLATE "C",
    display_name text,
    last_seen_ts bigint,
    last_seen_ip text,
    user_agent   text,
    created_ts   bigint  NOT NULL,
    PRIMARY KEY (part, user_id, device_id)
);

-- Access and refresh tokens: SHA-256 only.
CREATE TABLE access_token (
    part       integer NOT NULL,
    hash       bytea   NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    device_id  text    NOT NULL COLLATE "C" DEFAULT '',
    expires_ts bigint,                            -- null: does not expire
    refresh_hash bytea,                           -- the refresh token that was given out with it
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, hash)
);
CREATE INDEX access_token_device ON access_token (part, user_id, device_id);

CREATE TABLE refresh_token (
    part       integer NOT NULL,
    hash       bytea   NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    device_id  text    NOT NULL COLLATE "C",
    next_hash  bytea,                             -- set when it was used; the old one dies when the new one is
    expires_ts bigint,
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, hash)
);
CREATE INDEX refresh_token_device ON refresh_token (part, user_id, device_id);

-- Membership index: a projection of the room log, written by the room's owner; newer positions win.
CREATE TABLE membership (
    part         integer NOT NULL,
    user_id      text    NOT NULL COLLATE "C",
    room_id      text    NOT NULL COLLATE "C",
    room_part    integer NOT NULL,
    room_nid     bigint  NOT NULL,
    room_version text    NOT NULL DEFAULT '',
    membership   text    NOT NULL,                -- join invite leave ban knock
    event_nid    bigint  NOT NULL,
    event_id     text    NOT NULL COLLATE "C",
    sender       text    NOT NULL COLLATE "C",
    pos          bigint  NOT NULL,                -- log position of the event; for invites from elsewhere the position at the time
    join_pos     bigint  NOT NULL DEFAULT 0,      -- position at which the present join began
    stripped     bytea,                           -- JSON array: invite_state / knock_state of rooms that we are not in
    forgotten    boolean NOT NULL DEFAULT false,
    seq          bigint  NOT NULL,                -- user_stream.seq of the change
    join_seq     bigint  NOT NULL DEFAULT 0,      -- and of the beginning of the present join
    PRIMARY KEY (part, user_id, room_id)
) WITH (fillfactor = 80);
CREATE INDEX membership_seq ON membership (part, user_id, seq);

CREATE TABLE account_data (
    part    integer NOT NULL,
    user_id text    NOT NULL COLLATE "C",
    room_id text    NOT NULL COLLATE "C" DEFAULT '', -- '' : global
    type    text    NOT NULL COLLATE "C",
    content bytea   NOT NULL,
    deleted boolean NOT NULL DEFAULT false,
    seq     bigint  NOT NULL,
    PRIMARY KEY (part, user_id, room_id, type)
);
CREATE INDEX account_data_seq ON account_data (part, user_id, seq);

CREATE TABLE filter (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    filter_id bigint  NOT NULL,
    hash      bytea   NOT NULL,
    content   bytea   NOT NULL,
    PRIMARY KEY (part, user_id, filter_id),
    UNIQUE (part, user_id, hash)
);

-- To-device messages wait here until a sync token acknowledges them.
CREATE TABLE to_device (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    device_id text    NOT NULL COLLATE "C",
    seq       bigint  NOT NULL,
    n         integer NOT NULL,                   -- order among those of one seq
    sender    text    NOT NULL COLLATE "C",
    type      text    NOT NULL COLLATE "C",
    content   bytea   NOT NULL,
    PRIMARY KEY (part, user_id, device_id, seq, n)
);

-- sendToDevice and other user-scoped requests with a transaction id. done is the answer.
CREATE TABLE user_txn (
    part       integer NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    device_id  text    NOT NULL COLLATE "C",
    endpoint   text    NOT NULL COLLATE "C",
    txn_id     text    NOT NULL COLLATE "C",
    created_ts bigint  NOT NULL,
    PRIMARY KEY (part, user_id, device_id, endpoint, txn_id)
);

CREATE TABLE device_key (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    device_id text    NOT NULL COLLATE "C",
    keys      bytea   NOT NULL,                   -- the signed object of keys/upload
    stream_id bigint  NOT NULL,
    PRIMARY KEY (part, user_id, device_id)
);

CREATE TABLE one_time_key (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    device_id text    NOT NULL COLLATE "C",
    algorithm text    NOT NULL COLLATE "C",
    key_id    text    NOT NULL COLLATE "C",
    key       bytea   NOT NULL,
    n         bigint  NOT NULL,                   -- order of upload: the oldest is claimed first
    PRIMARY KEY (part, user_id, device_id, algorithm, key_id)
);

CREATE TABLE fallback_key (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    device_id text    NOT NULL COLLATE "C",
    algorithm text    NOT NULL COLLATE "C",
    key_id    text    NOT NULL COLLATE "C",
    key       bytea   NOT NULL,
    used      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (part, user_id, device_id, algorithm)
);

CREATE TABLE cross_signing_key (
    part    integer NOT NULL,
    user_id text    NOT NULL COLLATE "C",
    usage   text    NOT NULL COLLATE "C",         -- master, self_signing, user_signing
    key     bytea   NOT NULL,
    PRIMARY KEY (part, user_id, usage)
);

-- Signatures uploaded on keys of user_id (in that user's partition), by signer.
CREATE TABLE key_signature (
    part          integer NOT NULL,
    user_id       text    NOT NULL COLLATE "C",
    target        text    NOT NULL COLLATE "C",   -- device id, or public key of a cross-signing key
    signer        text    NOT NULL COLLATE "C",
    signer_key_id text    NOT NULL COLLATE "C",
    signature     text    NOT NULL,
    PRIMARY KEY (part, user_id, target, signer, signer_key_id)
);

-- Order of a local user's device-list changes (stream_id of m.device_list_update).
CREATE TABLE device_list (
    part      integer NOT NULL,
    user_id   text    NOT NULL COLLATE "C",
    stream_id bigint  NOT NULL,
    PRIMARY KEY (part, user_id)
);

-- What we hold of the devices of users of other servers.
CREATE TABLE remote_device_list (
    part       integer NOT NULL,
    user_id    text    NOT NULL COLLATE "C",
    stream_id  bigint  NOT NULL,
    stale      boolean NOT NULL,                  -- must be fetched anew before it is used
    content    bytea,                             -- the answer of GET /user/devices
    fetched_ts bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (part, user_id)
);

-- +goose Down
DROP TABLE remote_device_list, device_list, key_signature, cross_signing_key, fallback_key, one_time_key, device_key,
    user_txn, to_device, filter, account_data, membership, refresh_token, access_token, device, user_stream, account;
