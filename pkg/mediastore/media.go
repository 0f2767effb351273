package mediastore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"hanse/pkg/matrix/id"
	"hanse/pkg/partition"
)

// Errors of this package.
var (
	// ErrNotFound is returned for a media that does not exist, or not any more.
	ErrNotFound = errors.New("no such media")
	// ErrExists is returned to who would upload a media that was uploaded, or is being uploaded.
	ErrExists = errors.New("the media was uploaded already")
	// ErrTooLarge is returned for more bytes than an upload may have.
	ErrTooLarge = errors.New("the media is too large")
	// ErrLost says that the store does not have the bytes of a media that is ready.
	ErrLost = errors.New("the object store has lost the media")
)

// ID names a media, as mxc://origin/media does.
type ID struct {
	Origin id.Server
	Media  string
}

// maxMediaID bounds media ids of other servers.
const maxMediaID = 255

// ParseID checks both parts of an mxc URI (client-server API, content repository, "Security considerations").
func ParseID(origin, media string) (ID, error) {
	server, err := id.ParseServer(origin)
	if err != nil {
		return ID{}, err
	}
	if media == "" || len(media) > maxMediaID {
		return ID{}, fmt.Errorf("a media id of %d characters", len(media))
	}
	for _, c := range []byte(media) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return ID{}, fmt.Errorf("%.40q is not a media id", media)
		}
	}
	return ID{server, media}, nil
}

// NewID returns a new ID that nobody guesses.
func NewID(origin id.Server) ID { return ID{origin, rand.Text()} }

// String is the mxc URI.
func (i ID) String() string { return "mxc://" + string(i.Origin) + "/" + i.Media }

// Part is the partition of the media's row.
func (i ID) Part() uint32 { return partition.Of(string(i.Origin) + "/" + i.Media) }

// State is how far a media has come.
type State int16

// The states, as they are stored.
const (
	Reserved State = iota // it waits for its upload
	Arriving              // its bytes arrive
	Stored                // all bytes are in the store
	Ready
	Gone // it is being deleted
)

// Media is what is known of a media.
type Media struct {
	ID
	State State
	// Remote is whether it comes from another server.
	Remote bool
	// User has uploaded it; empty if nobody of ours has.
	User   id.User
	Object string
	Hash   []byte
	Bytes  int64
	Type   string
	Name   string
	// Created is when it was uploaded or reserved here, Touched when its state changed, Accessed when it was last used.
	Created, Touched, Accessed time.Time
	// QuarantinedBy is who has quarantined it; empty: nobody.
	QuarantinedBy string
	// Protected media are not quarantined with others.
	Protected bool
}

// newObject returns a key for an object. Its first two characters spread directories of a file store.
func newObject(kind string) string {
	k := rand.Text()
	return kind + "/" + k[:2] + "/" + k[2:]
}
