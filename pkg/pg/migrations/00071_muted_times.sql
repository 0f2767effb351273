-- When a user had muted everything (push rule .m.rule.master): since and until are log positions, one for each partition of the
-- rooms, by its number. What came in that time does not begin to count later. until is NULL while the mute lasts.

-- +goose Up
CREATE TABLE muted_time (
    part    integer  NOT NULL,
    user_id text     NOT NULL COLLATE "C",
    seq     bigint   NOT NULL, -- of the user's stream, when it began
    since   bigint[] NOT NULL,
    until   bigint[],
    PRIMARY KEY (part, user_id, seq)
);

-- +goose Down
DROP TABLE muted_time;
