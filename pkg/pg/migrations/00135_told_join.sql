-- Joins over federation: the state before one is what a single server told, so others are asked about it afterwards.

-- +goose Up
ALTER TABLE told_event
    ADD asks integer NOT NULL DEFAULT 0,          -- how often others are still asked at most; 0: the event is judged again when its prev events are here
    ADD via  text    NOT NULL DEFAULT '';         -- who told the state, and is not asked again

-- +goose Down
ALTER TABLE told_event DROP asks, DROP via;
