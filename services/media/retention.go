package media

import (
	"context"
	"errors"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
	mediav1 "hanse/proto/media/v1"
)

// Retention says what is deleted by itself. Protected and quarantined media stay.
type Retention struct {
	Local    time.Duration `yaml:"local" doc:"Delete our users' files that nobody has used for so long. 0: never. Avatars that clients have cached may count as unused."`
	LocalAge time.Duration `yaml:"local_age" doc:"Delete our users' files that are older. 0: never."`
	Remote   time.Duration `yaml:"remote" doc:"Delete files of other servers that nobody has used for so long; they are fetched again when somebody asks. 0: never, but for the budget of the cache."`
}

// Validate reports times in which nobody could use anything.
func (r *Retention) Validate() error {
	for _, d := range []time.Duration{r.Local, r.LocalAge, r.Remote} {
		if d != 0 && d < 24*time.Hour {
			return errors.New("a day at least, or 0: the last use is known to the hour")
		}
	}
	return nil
}

// Erase implements mediav1.MediaServer.
func (m *Media) Erase(ctx context.Context, in *mediav1.EraseRequest) (*mediav1.EraseResponse, error) {
	user, err := id.ParseUser(in.UserId)
	if err != nil || !m.servers.IsLocal(user.Server()) {
		return nil, merr.InvalidParam("Not a user of ours")
	}
	n, err := m.store.DeleteOfUser(ctx, user)
	m.metrics.removed.WithLabelValues("deleted").Add(float64(n))
	return &mediav1.EraseResponse{Deleted: int64(n)}, err
}

// retentionEvery is how often a worker looks for what is too old.
const retentionEvery = 6 * time.Hour

// retain deletes what is too old, in the partitions that this worker looks after.
func (m *Media) retain(ctx context.Context) {
	now, n := time.Now(), 0
	for _, rule := range []struct {
		after time.Duration
		what  mediastore.Filter
	}{{m.cfg.Retention.Local, mediastore.Filter{}}, {m.cfg.Retention.LocalAge, mediastore.Filter{ByAge: true}}, {m.cfg.Retention.Remote, mediastore.Filter{Remote: true}},
		{m.cfg.Previews.Keep, mediastore.Filter{ByAge: true, Nobodys: true}}} {
		if rule.after == 0 {
			continue
		}
		rule.what.Before = now.Add(-rule.after)
		err := m.store.DeleteMatching(ctx, m.mine(), rule.what, func(*mediastore.Media) { n++ })
		m.tried(ctx, "retention", err)
	}
	m.metrics.removed.WithLabelValues("retention").Add(float64(n))
}
