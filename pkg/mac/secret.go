package mac

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"hanse/pkg/metric"
	"hanse/pkg/pg"
)

// hidden is what is printed instead of a secret.
const hidden = "[secret]"

// secretSize is the length of the cluster's secret, in bytes.
const secretSize = 32

// Secret is what all workers of the cluster know.
type Secret struct {
	secret  []byte
	cluster string
	refused *prometheus.CounterVec
}

// Format hides the secret from all of fmt.
func (*Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// Load reads the secret of the cluster, and makes it if there is none. reg may be nil.
func Load(ctx context.Context, shards *pg.Shards, reg prometheus.Registerer) (*Secret, error) {
	first := shards.All()[0]
	secret, err := read(ctx, first)
	if errors.Is(err, pgx.ErrNoRows) {
		secret, err = create(ctx, first)
	}
	if err != nil {
		return nil, fmt.Errorf("secret of the cluster: %w", err)
	}
	return &Secret{secret: secret, cluster: shards.ClusterID(), refused: metric.Register(reg, prometheus.NewCounterVec(
		prometheus.CounterOpts{Name: "hanse_redis_refused_total", Help: "Values in Redis that no worker of this cluster has signed, by what they would have been for."},
		[]string{"purpose"}))}, nil
}

// Renew makes workers that start from now on have another secret: they believe nothing that was signed before, nor what
// those sign that run. After a restore to an earlier moment that ends what was signed about numbers that are given out again.
func Renew(ctx context.Context, shards *pg.Shards) error {
	if _, err := shards.All()[0].Exec(ctx, `DELETE FROM cluster_secret`); err != nil {
		return fmt.Errorf("secret of the cluster: %w", err)
	}
	return nil
}

func read(ctx context.Context, pool *pgxpool.Pool) (secret []byte, err error) {
	err = pool.QueryRow(ctx, `SELECT secret FROM cluster_secret`).Scan(&secret)
	return secret, err
}

// create makes the secret. Of several workers that try at once the first wins; what is returned is what holds.
func create(ctx context.Context, pool *pgxpool.Pool) ([]byte, error) {
	fresh := make([]byte, secretSize)
	_, _ = rand.Read(fresh) // it never fails
	if _, err := pool.Exec(ctx, `INSERT INTO cluster_secret (secret) VALUES ($1) ON CONFLICT DO NOTHING`, fresh); err != nil {
		return nil, err
	}
	return read(ctx, pool)
}
