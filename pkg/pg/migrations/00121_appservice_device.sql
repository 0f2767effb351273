-- Devices of the users of application services: to-device messages for them go to the service.

-- +goose Up
ALTER TABLE device ADD appservice_id text NOT NULL DEFAULT ''; -- the account's
UPDATE device d SET appservice_id = a.appservice_id FROM account a WHERE a.part = d.part AND a.user_id = d.user_id AND a.appservice_id <> '';
CREATE INDEX device_appservice ON device (appservice_id, part, user_id) WHERE appservice_id <> '';

-- +goose Down
DROP INDEX device_appservice;
ALTER TABLE device DROP appservice_id;
