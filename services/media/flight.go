package media

import (
	"context"
	"errors"
	"io"
	"sync"

	"hanse/pkg/matrix/id"
	"hanse/pkg/mediastore"
	mediav1 "hanse/proto/media/v1"
)

// flights are the media of other servers that this worker fetches now.
type flights struct {
	mu sync.Mutex
	of map[mediastore.ID]*flight
}

// flight is a media that arrives, for many who wait for it. It holds the last bytes that came; who is slower than that waits
// until all is in the store.
type flight struct {
	limit int64 // bytes that are held

	mu      sync.Mutex
	changed chan struct{} // closed when something changes
	head    *mediav1.Head
	window  [][]byte
	from    int64 // where the window begins
	end     int64 // how much has come
	done    bool
	err     error
	media   *mediastore.Media // when it is done without an error
}

// errBehind is for who reads what is not held any more: all of it is in the store.
var errBehind = errors.New("the bytes are in the store")

// change does something to the flight, and wakes all who wait.
func (f *flight) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *flight) setHead(h *mediav1.Head) { f.change(func() { f.head = h }) }

// add takes bytes that have come; they are not copied.
func (f *flight) add(b []byte) {
	f.change(func() {
		f.window = append(f.window, b)
		f.end += int64(len(b))
		for f.end-f.from-int64(len(f.window[0])) >= f.limit {
			f.from += int64(len(f.window[0]))
			f.window = f.window[1:]
		}
	})
}

func (f *flight) finish(m *mediastore.Media, err error) {
	f.change(func() { f.done, f.media, f.err = true, m, err })
}

// wait waits until look says that it has what it wants.
func (f *flight) wait(ctx context.Context, look func() bool) error {
	for {
		f.mu.Lock()
		found, changed := look(), f.changed
		f.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waitHead waits until it is known what arrives.
func (f *flight) waitHead(ctx context.Context) (head *mediav1.Head, err error) {
	waitErr := f.wait(ctx, func() bool {
		head, err = f.head, f.err
		return head != nil || f.done
	})
	if head == nil && err == nil {
		err = waitErr
	}
	return head, err
}

// next returns bytes from an offset on: io.EOF behind the last ones, when they are in the store.
func (f *flight) next(ctx context.Context, offset int64) (b []byte, err error) {
	waitErr := f.wait(ctx, func() bool {
		switch {
		case f.err != nil:
			err = f.err
		case offset >= f.from && offset < f.end:
			b = f.at(offset)
		case !f.done:
			return false
		case offset >= f.media.Bytes:
			err = io.EOF
		default:
			err = errBehind
		}
		return true
	})
	if waitErr != nil {
		return nil, waitErr
	}
	return b, err
}

func (f *flight) at(offset int64) []byte {
	at := f.from
	for _, b := range f.window {
		if offset < at+int64(len(b)) {
			return b[offset-at:]
		}
		at += int64(len(b))
	}
	return nil
}

// flightOf returns the flight of a media; the first who asks makes it.
func (m *Media) flightOf(i mediastore.ID, as id.Server) (*flight, error) {
	m.flights.mu.Lock()
	defer m.flights.mu.Unlock()
	if f := m.flights.of[i]; f != nil {
		return f, nil
	}
	leave, err := m.fetches.enter()
	if err != nil {
		return nil, err
	}
	f := &flight{limit: m.cfg.Remote.Window, changed: make(chan struct{})}
	m.flights.of[i] = f
	m.tasks.Go(func() {
		defer leave()
		ctx, cancel := context.WithTimeout(m.ended, m.cfg.Remote.Time)
		defer cancel()
		media, err := m.fetch(ctx, f, i, as)
		m.flights.mu.Lock()
		delete(m.flights.of, i)
		m.flights.mu.Unlock()
		f.finish(media, err)
	})
	return f, nil
}
