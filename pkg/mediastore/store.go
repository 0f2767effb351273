package mediastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"

	"hanse/pkg/pg"
)

// Config says where the bytes are.
type Config struct {
	URL     string        `yaml:"url" secret:"dsn" doc:"Object store: s3://bucket?region=... (with endpoint=... and use_path_style=true for what is compatible with S3), or file:///directory, which all workers must share. Empty: the directory media in data_dir, for one process."`
	Stale   time.Duration `yaml:"stale" doc:"After how long an upload that does not end is given up: more than any upload takes."`
	Reserve time.Duration `yaml:"reserve" doc:"How long a media id that was created waits for its upload."`
}

// Defaults suit a server of one process.
func Defaults() Config { return Config{Stale: 2 * time.Hour, Reserve: 24 * time.Hour} }

// Validate reports what is wrong with the configuration.
func (c *Config) Validate() error {
	if c.Stale < time.Second || c.Reserve < time.Second {
		return errors.New("stale and reserve: at least a second")
	}
	if c.URL == "" {
		return nil
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "file" && u.Scheme != "s3" {
		return errors.New("url: want s3://bucket or file:///directory")
	}
	return nil
}

// Store is the media of a cluster. It is safe for concurrent use.
type Store struct {
	cfg    Config
	shards *pg.Shards
	bucket *blob.Bucket
	log    *slog.Logger
	now    func() time.Time
	// s3 is the bucket if it is one of S3; nil: a directory.
	s3 *s3Bucket
	// faults are what tests make go wrong, by the name of a step.
	faults func(step string) error
}

// Open opens the object store. dir is where it lies if the configuration names none.
func Open(ctx context.Context, cfg Config, dir string, shards *pg.Shards, log *slog.Logger) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("media store: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg, shards: shards, log: log, now: time.Now}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("media store: not an URL")
	}
	switch u.Scheme {
	case "s3":
		s.bucket, s.s3, err = openS3(ctx, u)
	case "file":
		s.bucket, err = openFiles(u.Path)
	default:
		s.bucket, err = openFiles(filepath.Join(dir, "media"))
	}
	if err != nil {
		return nil, fmt.Errorf("media store: %w", err)
	}
	return s, nil
}

// openFiles opens a directory. Files are written beside their place and renamed: none is ever half there.
func openFiles(dir string) (*blob.Bucket, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return fileblob.OpenBucket(dir, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite, DirFileMode: 0o700})
}

// Close closes the object store.
func (s *Store) Close() error { return s.bucket.Close() }

// Check reports whether the object store answers.
func (s *Store) Check(ctx context.Context) error {
	ok, err := s.bucket.IsAccessible(ctx)
	if err == nil && !ok {
		err = errors.New("the bucket is not there")
	}
	return err
}

// step is where tests make an upload or a deletion end.
func (s *Store) step(name string) error {
	if s.faults == nil {
		return nil
	}
	return s.faults(name)
}

func notThere(err error) bool { return gcerrors.Code(err) == gcerrors.NotFound }

// parts are all partitions of the shards, by shard.
func (s *Store) allParts() []uint32 {
	all := make([]uint32, s.shards.P())
	for i := range all {
		all[i] = uint32(i)
	}
	return all
}

func ints(parts []uint32) []int32 {
	out := make([]int32, len(parts))
	for i, p := range parts {
		out[i] = int32(p)
	}
	return out
}
