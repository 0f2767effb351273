package core

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hanse/pkg/merr"
	"hanse/pkg/retries"
	"hanse/pkg/userdb"
)

const (
	// taskParallel bounds the tasks that a worker runs at once.
	taskParallel = 64
	// taskTime bounds one try of a task.
	taskTime = 2 * time.Minute
	// taskWait is how long an answer waits for the tasks that its request began: most are done by then, so that what
	// the client does next sees their effect.
	taskWait = 2 * time.Second
	// RoomsAtOnce bounds the calls that one task makes at the same time.
	RoomsAtOnce = 8
	// pruneEvery is how often rows that nobody needs are deleted; each worker does it for all.
	pruneEvery = time.Hour
	// txnAge is how long a request with a transaction id is known.
	txnAge = 7 * 24 * time.Hour
)

// Tasks runs what requests promised and stored as tasks.
type Tasks struct {
	users    *userdb.DB
	log      *slog.Logger
	interval time.Duration
	kinds    map[string]func(context.Context, userdb.Task) error

	running  sync.WaitGroup
	sem      chan struct{}
	draining context.Context
	drain    context.CancelFunc
}

func newTasks(d Deps) *Tasks {
	t := &Tasks{users: d.Users, log: d.Log, interval: d.TaskInterval, kinds: make(map[string]func(context.Context, userdb.Task) error),
		sem: make(chan struct{}, taskParallel)}
	t.draining, t.drain = context.WithCancel(context.Background())
	return t
}

// Do names what does the tasks of a kind. It is called before any task starts.
func (t *Tasks) Do(kind string, fn func(context.Context, userdb.Task) error) { t.kinds[kind] = fn }

// Run takes tasks of workers that died, until the context ends. Then it gives up those that are under way, and waits for them.
func (t *Tasks) Run(ctx context.Context) error {
	defer func() {
		t.drain()
		t.running.Wait()
	}()
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	pruned := time.Now()
	reads := retries.Log{To: t.log, What: "reading unfinished tasks"}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		tasks, err := t.users.TakeTasks(ctx, time.Now(), taskParallel)
		if ctx.Err() == nil {
			reads.Note(err)
		}
		t.start(tasks...)
		if time.Since(pruned) > pruneEvery {
			pruned = time.Now()
			if err := t.users.Prune(ctx, pruned, txnAge); err != nil && ctx.Err() == nil {
				t.log.WarnContext(ctx, "old rows could not be deleted", "err", err)
			}
		}
	}
}

// start runs tasks in the background. done is closed when all were tried. One that fails is found again by Run,
// here or elsewhere.
func (t *Tasks) start(tasks ...userdb.Task) (done <-chan struct{}) {
	all := make(chan struct{})
	t.running.Add(1)
	go func() {
		defer t.running.Done()
		defer close(all)
		var g errgroup.Group
		for _, task := range tasks {
			g.Go(func() error {
				t.try(task)
				return nil
			})
		}
		_ = g.Wait() // no function returns an error
	}()
	return all
}

// StartAndWait starts tasks and waits for them, but not for long: they are safe anyway.
func (t *Tasks) StartAndWait(ctx context.Context, tasks ...userdb.Task) {
	if len(tasks) == 0 {
		return
	}
	timer := time.NewTimer(taskWait)
	defer timer.Stop()
	select {
	case <-t.start(tasks...):
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (t *Tasks) try(task userdb.Task) {
	select {
	case t.sem <- struct{}{}:
		defer func() { <-t.sem }()
	case <-t.draining.Done():
		return
	}
	ctx, cancel := context.WithTimeout(t.draining, taskTime)
	defer cancel()
	err := fmt.Errorf("unknown kind of task %q", task.Kind)
	if do := t.kinds[task.Kind]; do != nil {
		err = do(ctx, task)
	}
	if err == nil {
		err = t.users.FinishTask(ctx, task)
	}
	if err != nil && t.draining.Err() == nil {
		t.log.Warn("task not finished", "user", task.User, "kind", task.Kind, "key", task.Key, "attempts", task.Attempts, "err", err)
	}
}

// PassOver drops errors that will not go away by trying again.
func PassOver(err error) error {
	if e, ok := merr.As(err); ok && e.Status < 500 && e.Code != merr.CodeLimitExceeded {
		return nil
	}
	return err
}
