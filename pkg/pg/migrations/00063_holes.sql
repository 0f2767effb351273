-- Holes in timelines. An event that came live has its log position as its ord. One that came later, and fills a hole before an
-- event at position p, has its place between that event and the one before: ord is then the place, as package roomdb encodes it,
-- which is a number far below all others. So rows of before stay as they are, and the index that orders live events orders these.

-- +goose Up
ALTER TABLE missing_prev ADD hole bigint; -- log position before which the timeline lacks the event; null: the child has no place
UPDATE missing_prev m SET hole = e.ord FROM event e WHERE e.part = m.part AND e.event_nid = m.child AND e.ord IS NOT NULL;
CREATE INDEX missing_prev_hole ON missing_prev (part, room_nid, hole) WHERE hole IS NOT NULL;

-- +goose Down
DROP INDEX missing_prev_hole;
ALTER TABLE missing_prev DROP hole;
