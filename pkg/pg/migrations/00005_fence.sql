-- The fence of an append: its first statement counts the partitions that are still held and calls this. What it
-- raises aborts the transaction, so that nothing of a worker that lost a partition is ever committed.

-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION hanse_fence(held bigint, wanted bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF held <> wanted THEN
        RAISE EXCEPTION 'a partition of this append is no longer held (% of %)', held, wanted USING ERRCODE = 'HF001';
    END IF;
    RETURN held;
END $$;
-- +goose StatementEnd

-- Redactions that came before the event that they name.
CREATE TABLE awaited_redaction (
    part      integer NOT NULL,
    room_nid  bigint  NOT NULL,
    event_id  text    NOT NULL COLLATE "C",
    redaction bigint  NOT NULL,
    PRIMARY KEY (part, room_nid, event_id, redaction)
);

-- +goose Down
DROP TABLE awaited_redaction;
DROP FUNCTION hanse_fence;
