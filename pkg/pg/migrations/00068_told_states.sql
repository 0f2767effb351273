-- Events before which other servers told the state, as prev events were missing. Once these are here the event, and what
-- follows it, is judged again. While a room has such events, those that it refuses are noted beside them: they may be refused
-- for what was told wrongly.

-- +goose Up
CREATE TABLE told_event (
    part      integer NOT NULL,
    room_nid  bigint  NOT NULL,
    event_nid bigint  NOT NULL,
    told      boolean NOT NULL,                   -- the state before the event was told; false: the event was refused
    pos       bigint  NOT NULL,                   -- what follows the event in the timeline is behind this log position; for refused events: 0, or not 0 if the event is history
    PRIMARY KEY (part, room_nid, event_nid)
);

-- +goose Down
DROP TABLE told_event;
