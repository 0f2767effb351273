-- Device lists over federation (server-server API, "Device Management").

-- +goose Up
-- The last change of a local user's cross-signing keys. It is above all positions of the device list at that time, so that no
-- change of the one kind is taken for one of the other that was told before.
ALTER TABLE device_list ADD COLUMN keys_stream bigint NOT NULL DEFAULT 0;

-- news counts what we heard of a remote user's devices: what was fetched is as new as the last news only if none came meanwhile.
-- The others say why the user's server tells us of changes: the user's membership (seen_nid) of a room in which we are too, by
-- the membership (seen_by_nid) of a user of ours (seen_by). As long as both are part of the room's state nothing was missed.
ALTER TABLE remote_device_list
    ADD COLUMN news        bigint  NOT NULL DEFAULT 0,
    ADD COLUMN seen_part   integer NOT NULL DEFAULT 0,
    ADD COLUMN seen_room   bigint  NOT NULL DEFAULT 0,
    ADD COLUMN seen_nid    bigint  NOT NULL DEFAULT 0,
    ADD COLUMN seen_by     text    NOT NULL COLLATE "C" DEFAULT '',
    ADD COLUMN seen_by_nid bigint  NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE remote_device_list
    DROP COLUMN news, DROP COLUMN seen_part, DROP COLUMN seen_room, DROP COLUMN seen_nid, DROP COLUMN seen_by, DROP COLUMN seen_by_nid;
ALTER TABLE device_list DROP COLUMN keys_stream;
