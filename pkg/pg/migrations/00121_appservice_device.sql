-- Devices of the users of application services: to-device messages for them go to the service.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE device ADD IF NOT EXISTS appservice_id text NOT NULL DEFAULT ''; -- the account's
-- One partition at a time: its devices are locked meanwhile.
-- +goose StatementBegin
DO $$
DECLARE
    p integer;
BEGIN
    FOR p IN SELECT DISTINCT part FROM account WHERE appservice_id <> '' LOOP
        UPDATE device d SET appservice_id = a.appservice_id FROM account a
        WHERE a.part = p AND a.appservice_id <> '' AND d.part = a.part AND d.user_id = a.user_id AND d.appservice_id <> a.appservice_id;
        COMMIT;
    END LOOP;
END $$;
-- +goose StatementEnd
DROP INDEX CONCURRENTLY IF EXISTS device_appservice; -- of an attempt that was broken off
CREATE INDEX CONCURRENTLY device_appservice ON device (appservice_id, part, user_id) WHERE appservice_id <> '';

-- +goose Down
DROP INDEX CONCURRENTLY IF EXISTS device_appservice;
ALTER TABLE device DROP appservice_id;
