-- Relations of events (client-server API, "Forming relationships between events"). A row for each event of the timeline that
-- relates to another one, and for each thread its number of replies: no read counts events. An event that relates to none has no
-- row.

-- +goose Up
CREATE TABLE relation (
    part      integer NOT NULL,
    child     bigint  NOT NULL,                   -- the event that relates to another one
    room_nid  bigint  NOT NULL,
    parent    text    NOT NULL COLLATE "C",       -- the event that it relates to, be it here or not
    rel_type  text    NOT NULL COLLATE "C",
    child_id  text    NOT NULL COLLATE "C",
    type      text    NOT NULL COLLATE "C",       -- of the child, like the next two
    sender    text    NOT NULL COLLATE "C",
    origin_ts bigint  NOT NULL,
    place     bigint  NOT NULL,                   -- of the child in the timeline, as package roomdb encodes it
    key       text    NOT NULL COLLATE "C",       -- of an annotation
    edit      boolean NOT NULL,                   -- the child may replace the content of the parent
    live      boolean NOT NULL,                   -- the child is in the timeline and not redacted
    PRIMARY KEY (part, child)
);
CREATE INDEX relation_place ON relation (part, room_nid, parent, place) WHERE live;
CREATE INDEX relation_type ON relation (part, room_nid, parent, rel_type, place) WHERE live;
-- The edits of an event's sender, the newest last, and what somebody annotated it with.
CREATE INDEX relation_sender ON relation (part, room_nid, parent, sender, origin_ts, child_id)
    WHERE live AND rel_type IN ('m.annotation', 'm.replace');

-- Threads, and who takes part in them.
CREATE TABLE thread (
    part       integer NOT NULL,
    room_nid   bigint  NOT NULL,
    user_id    text    NOT NULL COLLATE "C",      -- whose replies are counted; '': everybody's
    root       text    NOT NULL COLLATE "C",
    replies    bigint  NOT NULL,                  -- 0 of who only sent the root
    last_place bigint  NOT NULL,                  -- of the newest reply, in the row for everybody
    PRIMARY KEY (part, room_nid, user_id, root)
) WITH (fillfactor = 80);
CREATE INDEX thread_last ON thread (part, room_nid, last_place) WHERE user_id = '' AND replies > 0;

-- Events that were here before. What PostgreSQL cannot read of their JSON relates to nothing.
-- +goose StatementBegin
DO $$
DECLARE
    e record;
    content json;
    rel json;
BEGIN
    FOR e IN SELECT * FROM event WHERE ord IS NOT NULL AND position('m.relates_to'::bytea IN json) > 0 LOOP
        BEGIN
            content := convert_from(e.json, 'UTF8')::json -> 'content';
            rel := content -> 'm.relates_to';
            IF json_typeof(rel) = 'object' AND json_typeof(rel -> 'rel_type') = 'string' AND json_typeof(rel -> 'event_id') = 'string'
                AND octet_length(rel ->> 'rel_type') BETWEEN 1 AND 255 AND octet_length(rel ->> 'event_id') BETWEEN 2 AND 255
                AND rel ->> 'event_id' <> e.event_id THEN
                INSERT INTO relation VALUES (e.part, e.event_nid, e.room_nid, rel ->> 'event_id', rel ->> 'rel_type', e.event_id, e.type,
                    e.sender, e.origin_ts, CASE WHEN e.ord < -1152921504606846976 THEN e.ord + 4611686018427387904 ELSE e.ord << 20 END,
                    CASE WHEN json_typeof(rel -> 'key') = 'string' THEN rel ->> 'key' ELSE '' END,
                    rel ->> 'rel_type' = 'm.replace' AND e.state_key IS NULL
                        AND (e.type = 'm.room.encrypted' OR coalesce(json_typeof(content -> 'm.new_content'), '') = 'object'),
                    e.redacted_by IS NULL);
            END IF;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            NULL;
        END;
    END LOOP;
END $$;
-- +goose StatementEnd
INSERT INTO thread (part, room_nid, user_id, root, replies, last_place)
SELECT part, room_nid, user_id, root, sum(n), max(place) FROM (
    SELECT r.part, r.room_nid, u.user_id, r.parent AS root, CASE WHEN r.live THEN 1 ELSE 0 END AS n, r.place
    FROM relation r CROSS JOIN LATERAL (VALUES (''), (r.sender)) AS u (user_id) WHERE r.rel_type = 'm.thread'
    UNION ALL
    SELECT r.part, r.room_nid, e.sender, r.parent, 0, r.place FROM relation r
    JOIN event e ON e.part = r.part AND e.event_id = r.parent AND e.room_nid = r.room_nid WHERE r.rel_type = 'm.thread') t
GROUP BY part, room_nid, user_id, root;

-- +goose Down
DROP TABLE thread, relation;
