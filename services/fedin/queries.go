package fedin

const (
	sqlDoneTransaction = `SELECT response FROM fed_txn WHERE part = $1 AND origin = $2 AND txn_id = $3`
	sqlNoteTransaction = `
INSERT INTO fed_txn (part, origin, txn_id, response, created_ts) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`
	sqlPruneTransactions = `DELETE FROM fed_txn WHERE part = ANY($1) AND created_ts < $2`
)
