package appservice

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"hanse/pkg/partition"
	"hanse/pkg/pg"
)

// Standing is where a service stands with what it is to get. The role appservice stores it.
type Standing struct {
	// Behind says that the service is served from the log, not from memory.
	Behind bool
	// Pending says that a transaction is not acknowledged.
	Pending bool
	// LastOK is when the service acknowledged a transaction last; zero: never.
	LastOK time.Time
	// WaitingSince is how long the oldest thing has waited that the service lacks, as of the last transaction or failure; zero: it has
	// all.
	WaitingSince time.Time
	// Failures are attempts in a row that have failed, since FailingSince. The next one is not before NextTry, unless the service
	// shows itself.
	Failures              int
	FailingSince, NextTry time.Time
	LastError             string
}

// Standings returns where the services stand that have ever been served.
func Standings(ctx context.Context, shards *pg.Shards) (map[string]Standing, error) {
	all := make(map[string]Standing)
	for _, pool := range shards.All() {
		rows, err := pool.Query(ctx, `SELECT service_id, behind, body IS NOT NULL, last_ok, waiting_since, failures, failing_since, next_try, last_error FROM appservice_stream`)
		if err != nil {
			return nil, fmt.Errorf("read where application services stand: %w", err)
		}
		var name string
		var s Standing
		var ok, waiting, failing, next int64
		_, err = pgx.ForEachRow(rows, []any{&name, &s.Behind, &s.Pending, &ok, &waiting, &s.Failures, &failing, &next, &s.LastError}, func() error {
			s.LastOK, s.WaitingSince, s.FailingSince, s.NextTry = moment(ok), moment(waiting), moment(failing), moment(next)
			all[name] = s
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read where application services stand: %w", err)
		}
	}
	return all, nil
}

// ForgetStanding forgets where a service stands: if it is added again, it begins at the present.
func ForgetStanding(ctx context.Context, shards *pg.Shards, service string) error {
	part := partition.Of(service)
	if _, err := shards.For(part).Exec(ctx, `DELETE FROM appservice_stream WHERE part = $1 AND service_id = $2`, int32(part), service); err != nil {
		return fmt.Errorf("forget where an application service stands: %w", err)
	}
	return nil
}

func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
