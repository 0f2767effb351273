-- Each look into the index of words reads all that waits to enter it: that stays little.

-- +goose Up
ALTER INDEX search_words SET (gin_pending_list_limit = 256); -- KiB

-- +goose Down
ALTER INDEX search_words RESET (gin_pending_list_limit);
