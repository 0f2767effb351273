package appservice

// The queries of the role. What a service has got lies in the partition of its id.
const (
	sqlStreams = `
SELECT service_id, txn, body IS NOT NULL, pos, behind, last_ok, waiting_since, failures, failing_since, next_try, last_error
FROM appservice_stream WHERE part = $1`

	sqlNew = `INSERT INTO appservice_stream (part, service_id, txn, pos) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`

	// sqlCut stores the next transaction, and that the service has acknowledged all before.
	sqlCut = `
INSERT INTO appservice_stream AS s (part, service_id, txn, body, to_device, pos, behind, last_ok, waiting_since) VALUES ($1, $2, $3, $4, $5, $6, true, $7, $8)
ON CONFLICT (part, service_id) DO UPDATE SET txn = excluded.txn, body = excluded.body, to_device = excluded.to_device, pos = excluded.pos,
    last_ok = excluded.last_ok, waiting_since = excluded.waiting_since, failures = 0, failing_since = 0, next_try = 0, last_error = ''`

	sqlBody = `SELECT txn, body, coalesce(to_device, '') FROM appservice_stream WHERE part = $1 AND service_id = $2`

	sqlAcknowledged = `
UPDATE appservice_stream SET body = NULL, to_device = NULL, last_ok = $3, waiting_since = 0, failures = 0, failing_since = 0, next_try = 0, last_error = ''
WHERE part = $1 AND service_id = $2`

	sqlFailed = `
UPDATE appservice_stream SET failures = $3, failing_since = $4, next_try = $5, last_error = $6, waiting_since = $7 WHERE part = $1 AND service_id = $2`

	// sqlBehind never takes a position back: a transaction that was stored meanwhile knows better.
	sqlBehind = `
UPDATE appservice_stream SET behind = $3, pos = (SELECT array_agg(greatest(u.old, u.new) ORDER BY u.n) FROM unnest(pos, $4::bigint[]) WITH ORDINALITY AS u (old, new, n))
WHERE part = $1 AND service_id = $2`
)

// The queries on what waits for devices of the services' users. It lies in the users' partitions.
const (
	sqlDevices = `SELECT DISTINCT user_id FROM device WHERE appservice_id = $1 AND appservice_id <> '' LIMIT $2`

	sqlToDevice = `
SELECT t.part, t.user_id, t.device_id, t.seq, t.n, t.sender, t.type, t.content
FROM unnest($2::int[], $3::text[]) AS u (part, user_id) JOIN device d ON d.part = u.part AND d.user_id = u.user_id AND d.appservice_id = $1
JOIN to_device t ON t.part = d.part AND t.user_id = d.user_id AND t.device_id = d.device_id
ORDER BY t.part, t.user_id, t.device_id, t.seq, t.n LIMIT $4`

	sqlDelivered = `DELETE FROM to_device WHERE part = $1 AND user_id = $2 AND device_id = $3 AND (seq, n) <= ($4, $5)`

	sqlKeys = `
SELECT d.user_id, d.device_id,
    (SELECT jsonb_object_agg(c.algorithm, c.n) FROM (SELECT k.algorithm, count(*) AS n FROM one_time_key k
        WHERE k.part = d.part AND k.user_id = d.user_id AND k.device_id = d.device_id GROUP BY k.algorithm) AS c),
    (SELECT coalesce(json_agg(f.algorithm ORDER BY f.algorithm), '[]') FROM fallback_key f
        WHERE f.part = d.part AND f.user_id = d.user_id AND f.device_id = d.device_id AND NOT f.used)
FROM unnest($2::int[], $3::text[]) AS u (part, user_id) JOIN device d ON d.part = u.part AND d.user_id = u.user_id AND d.appservice_id = $1
WHERE EXISTS (SELECT FROM device_key k WHERE k.part = d.part AND k.user_id = d.user_id AND k.device_id = d.device_id)`
)
