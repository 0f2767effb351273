package userdb

import (
	"context"
	"fmt"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/userdb/db"
)

// The kinds of tasks.
const (
	TaskProfile    = "profile"    // tell the rooms of a changed profile
	TaskDevices    = "devices"    // tell the rooms of changed devices
	TaskDeactivate = "deactivate" // leave the rooms of a deactivated account
	TaskErase      = "erase"      // delete the files of an erased account
	TaskSuccession = "succession" // take what users have set for a room along to its successor
	TaskGuests     = "guests"     // remove guests from a room that admits none any more
)

// taskGrace is how long a task is left to the request that made it.
const taskGrace = 20 * time.Second

// Task is work that a request promised and that must be done even if its worker dies.
type Task struct {
	// User is whose task it is; of TaskGuests, which room owners store, the room's id stands here.
	User id.User
	Kind string
	// Key tells a user's tasks of one kind apart: a later one with the same key takes the place of the earlier.
	Key     string
	Payload []byte
	// Version and Attempts are set by the database.
	Version  int64
	Attempts int
}

// PutTask stores a task in the transaction of the change that causes it. It becomes due for others after a grace.
func (tx *Tx) PutTask(ctx context.Context, t Task) (Task, error) {
	if t.Payload == nil {
		t.Payload = []byte{}
	}
	v, err := tx.Queries.PutTask(ctx, db.PutTaskParams{
		Part: tx.Part, UserID: string(t.User), Kind: t.Kind, Key: t.Key, Payload: t.Payload, DueTs: Millis(time.Now().Add(taskGrace)),
	})
	if err != nil {
		return t, fmt.Errorf("store task: %w", err)
	}
	t.Version = v
	return t, nil
}

// AddTask stores a task that no other change causes.
func (d *DB) AddTask(ctx context.Context, t Task) (Task, error) {
	_, err := d.Change(ctx, t.User, func(tx *Tx) (err error) {
		t, err = tx.PutTask(ctx, t)
		return err
	})
	return t, err
}

// FinishTask deletes a task, unless it was replaced meanwhile.
func (d *DB) FinishTask(ctx context.Context, t Task) error {
	q, part := d.At(t.User)
	_, err := q.FinishTask(ctx, db.FinishTaskParams{Part: part, UserID: string(t.User), Kind: t.Kind, Key: t.Key, Version: t.Version})
	return err
}

// TakeTasks takes at most limit due tasks of each shard; they become due again, later with each attempt, unless they
// are finished.
func (d *DB) TakeTasks(ctx context.Context, now time.Time, limit int) ([]Task, error) {
	var tasks []Task
	err := d.eachShard(func(q *db.Queries, parts []int32) error {
		rows, err := q.DueTasks(ctx, Millis(now), parts, int32(limit))
		if err != nil {
			return fmt.Errorf("take tasks: %w", err)
		}
		for _, r := range rows {
			tasks = append(tasks, Task{
				User: id.User(r.UserID), Kind: r.Kind, Key: r.Key, Payload: r.Payload, Version: r.Version, Attempts: int(r.Attempts),
			})
		}
		return nil
	})
	return tasks, err
}

// Prune deletes what is of no use any more: expired OpenID tokens, connections of sliding sync that nobody uses, and marks of transactions that nobody repeats.
func (d *DB) Prune(ctx context.Context, now time.Time, txnAge time.Duration) error {
	return d.eachShard(func(q *db.Queries, parts []int32) error {
		if err := q.PruneOpenIDTokens(ctx, parts, Millis(now)); err != nil {
			return err
		}
		if err := q.PruneSlidingConnections(ctx, parts, Millis(now.Add(-SlidingIdle))); err != nil {
			return err
		}
		_, err := q.PruneUserTxns(ctx, parts, Millis(now.Add(-txnAge)))
		return err
	})
}
