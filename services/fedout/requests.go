package fedout

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"hanse/pkg/matrix/id"
)

// requestSlots bounds the requests of other roles that are under way: in all, and to one server, so that one that hangs
// does not take them all.
type requestSlots struct {
	most int

	mu  sync.Mutex
	all int
	to  map[id.Server]int
}

func newRequestSlots(most int) *requestSlots {
	return &requestSlots{most: most, to: make(map[id.Server]int)}
}

// shareOfOne is the part of all requests that may go to one server.
const shareOfOne = 8

// enter takes a slot, or fails at once; leave gives it back.
func (r *requestSlots) enter(server id.Server) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= r.most {
		return nil, errors.New("too many requests to other servers are under way")
	}
	if r.to[server] >= max(1, r.most/shareOfOne) {
		return nil, errors.New("too many requests to this server are under way")
	}
	r.all++
	r.to[server]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all--
		if r.to[server]--; r.to[server] == 0 {
			delete(r.to, server)
		}
	}, nil
}

// inVain remembers servers for which somebody has waited in vain, for several times as long as that took, so that those who
// ask often wait for no more than a part of their time.
type inVain struct {
	mu    sync.Mutex
	until *simplelru.LRU[id.Server, time.Time]
}

const (
	vainServers = 10_000
	vainTimes   = 4
	vainLongest = time.Minute
)

func newInVain() *inVain {
	until, err := simplelru.NewLRU[id.Server, time.Time](vainServers, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &inVain{until: until}
}

// waited notes that somebody waited in vain.
func (v *inVain) waited(server id.Server, long time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.until.Add(server, time.Now().Add(min(vainTimes*long, vainLongest)))
}

// lately reports whether somebody has waited in vain a short while ago.
func (v *inVain) lately(server id.Server) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	until, ok := v.until.Get(server)
	return ok && time.Now().Before(until)
}

// answered forgets a server.
func (v *inVain) answered(server id.Server) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.until.Remove(server)
}
