// Package deadletter keeps dead letters (table dead_letter): entries of the log that a consumer could not process and passed
// over. An operator lists and replays them.
package deadletter

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/matrix/id"
	"hanse/pkg/pg"
)

// Consumers that leave dead letters.
const (
	Sync   = "sync"
	Fedout = "fedout"
	Client = "client" // the index of words
	Push   = "push"

	Appservice = "appservice"
)

// RefusedBy is the consumer of the letters that note what a server has refused.
func RefusedBy(server id.Server) string { return Fedout + ":" + string(server) }

// Refuser returns the server of a consumer that RefusedBy has named.
func Refuser(consumer string) (id.Server, bool) {
	server, ok := strings.CutPrefix(consumer, Fedout+":")
	return id.Server(server), ok
}

// Letter is an entry of the log that a consumer passed over.
type Letter struct {
	Part     uint32
	Consumer string
	Pos      int64
	Error    string
	Created  time.Time
}

// Put stores that a consumer has passed over an entry.
func Put(ctx context.Context, shards *pg.Shards, part uint32, consumer string, pos int64, cause error) error {
	_, err := shards.For(part).Exec(ctx, `INSERT INTO dead_letter (part, consumer, pos, error, created_ts)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, int32(part), consumer, pos, cause.Error(), time.Now().UnixMilli())
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}

// PutBelow is Put unless the consumer has that many letters in the partition.
func PutBelow(ctx context.Context, shards *pg.Shards, part uint32, consumer string, pos int64, cause error, limit int) error {
	_, err := shards.For(part).Exec(ctx, `INSERT INTO dead_letter (part, consumer, pos, error, created_ts)
SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM (SELECT FROM dead_letter WHERE part = $1 AND consumer = $2 LIMIT $6) AS l) < $6
ON CONFLICT DO NOTHING`, int32(part), consumer, pos, cause.Error(), time.Now().UnixMilli(), limit)
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}

// All returns all letters, by partition, consumer and position.
func All(ctx context.Context, shards *pg.Shards) ([]Letter, error) {
	var all []Letter
	for _, pool := range shards.All() {
		rows, err := pool.Query(ctx, `SELECT part, consumer, pos, error, created_ts FROM dead_letter`)
		if err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		some, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Letter, err error) {
			var ms int64
			err = row.Scan(&l.Part, &l.Consumer, &l.Pos, &l.Error, &ms)
			l.Created = time.UnixMilli(ms)
			return l, err
		})
		if err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(x, y Letter) int {
		return cmp.Or(cmp.Compare(x.Part, y.Part), cmp.Compare(x.Consumer, y.Consumer), cmp.Compare(x.Pos, y.Pos))
	})
	return all, nil
}

// Exists says whether there is a letter.
func Exists(ctx context.Context, shards *pg.Shards, part uint32, consumer string, pos int64) (exists bool, err error) {
	err = shards.For(part).QueryRow(ctx, `SELECT EXISTS (SELECT FROM dead_letter WHERE part = $1 AND consumer = $2 AND pos = $3)`,
		int32(part), consumer, pos).Scan(&exists)
	if err != nil {
		return false, fmt.Errorf("read dead letters: %w", err)
	}
	return exists, nil
}

// Remove removes a letter.
func Remove(ctx context.Context, shards *pg.Shards, part uint32, consumer string, pos int64) error {
	_, err := shards.For(part).Exec(ctx, `DELETE FROM dead_letter WHERE part = $1 AND consumer = $2 AND pos = $3`, int32(part), consumer, pos)
	if err != nil {
		return fmt.Errorf("remove dead letter: %w", err)
	}
	return nil
}
