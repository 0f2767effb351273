-- Memberships of local users in rooms that this server is not in, which have no entry in a room's log: invites by users of other
-- servers, and their ends. The user's push worker takes them from here. Only of users who have a pusher.

-- +goose Up
CREATE TABLE push_invite (
    part     integer NOT NULL,
    user_id  text    NOT NULL COLLATE "C",
    room_id  text    NOT NULL COLLATE "C",
    event_id text    NOT NULL COLLATE "C",        -- the membership event, as in table membership
    PRIMARY KEY (part, user_id, room_id)
);

-- +goose Down
DROP TABLE push_invite;
