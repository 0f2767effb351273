-- When something last happened in a room, for lists of rooms in order of activity. Log positions are those of one partition, and
-- cannot be compared between rooms; these are milliseconds since 1970 by the clock of the partition's owner, and never fall.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE room
    ADD IF NOT EXISTS active_ts bigint NOT NULL DEFAULT 0, -- of the newest event
    ADD IF NOT EXISTS bump_ts   bigint NOT NULL DEFAULT 0; -- of the newest event that a list of rooms shows as activity: a message, a call, ...
-- One partition at a time: its rooms are locked meanwhile.
-- +goose StatementBegin
DO $$
DECLARE
    p integer;
BEGIN
    FOR p IN SELECT DISTINCT part FROM room LOOP
        UPDATE room r SET active_ts = e.ts, bump_ts = e.ts FROM (
            SELECT o.part, o.room_nid, least(n.origin_ts, (extract(epoch FROM now()) * 1000)::bigint) AS ts
            FROM room o CROSS JOIN LATERAL (
                SELECT origin_ts FROM event WHERE part = o.part AND room_nid = o.room_nid AND ord > 0 ORDER BY ord DESC LIMIT 1) n
            WHERE o.part = p AND o.active_ts = 0) e
        WHERE r.part = e.part AND r.room_nid = e.room_nid;
        COMMIT;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE room DROP active_ts, DROP bump_ts;
