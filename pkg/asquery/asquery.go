package asquery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"hanse/pkg/appservice"
	"hanse/pkg/asclient"
	"hanse/pkg/cache"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	"hanse/pkg/metric"
)

const (
	// askTime bounds a question about a user or an alias: the service may have to create it. lookTime bounds all others.
	askTime, lookTime = 10 * time.Second, 5 * time.Second
	// pause is for how long a service that does not answer is left alone.
	pause = 10 * time.Second
	// unsupported is for how long a service is not asked what it has said it does not know of.
	unsupported = 10 * time.Minute
	// absent is for how long it is remembered that an id does not exist.
	absent = time.Minute
	// most bounds the services that are asked at a time, and those that are asked about one id.
	most = 16
	// remembered bounds each kind of what is remembered, in bytes.
	remembered = 4 << 20
)

// ErrNoAnswer says that a service that might have said yes did not answer.
var ErrNoAnswer = errors.New("an application service did not answer")

// Client asks. It is safe for concurrent use. A nil Client has nobody to ask.
type Client struct {
	apps *appservice.Registry
	web  *asclient.Client
	log  *slog.Logger

	flight    singleflight.Group
	absent    *cache.Cache[string, error]                 // questions with the answer no; with ErrNoAnswer, without an answer
	silent    *cache.Cache[*appservice.Service, struct{}] // those that do not answer
	lacks     *cache.Cache[lack, struct{}]                // what services do not know of
	protocols *cache.Cache[protocolKey, json.RawMessage]

	asked *prometheus.CounterVec
}

// lack is a kind of question that a service does not know.
type lack struct {
	service *appservice.Service
	kind    string
}

// New returns a client for the services of a registry. log and reg may be nil.
func New(apps *appservice.Registry, web *asclient.Client, log *slog.Logger, reg prometheus.Registerer) *Client {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		apps: apps, web: web, log: log,
		absent: cache.New(cache.Config[string, error]{Name: "appservice_absent", Budget: remembered, MaxAge: absent, Metrics: reg,
			Weigh: func(name string, _ error) int64 { return int64(200 + len(name)) }}),
		silent: cache.New(cache.Config[*appservice.Service, struct{}]{Name: "appservice_silent", Budget: remembered, MaxAge: pause, Metrics: reg,
			Weigh: func(*appservice.Service, struct{}) int64 { return 200 }}),
		lacks: cache.New(cache.Config[lack, struct{}]{Name: "appservice_lacks", Budget: remembered, MaxAge: unsupported, Metrics: reg,
			Weigh: func(lack, struct{}) int64 { return 200 }}),
		protocols: cache.New(cache.Config[protocolKey, json.RawMessage]{Name: "appservice_protocols", Budget: remembered, MaxAge: protocolAge, Metrics: reg,
			Weigh: func(k protocolKey, info json.RawMessage) int64 { return int64(200 + len(k.name) + len(info)) }}),
		asked: metric.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hanse_appservice_queries_total",
			Help: "Questions to application services, by kind and by result: yes, no, or error if there was no answer."}, []string{"kind", "result"})),
	}
}

// The kinds of questions.
const (
	kindUser     = "user"
	kindAlias    = "alias"
	kindProtocol = "protocol"
	kindNetwork  = "thirdparty"
	kindClaim    = "claim"
	kindKeys     = "keys"
	kindPing     = "ping"
)

// ask makes a request to a service, and remembers if it does not answer.
func (c *Client) ask(ctx context.Context, s *appservice.Service, kind string, r asclient.Request) (asclient.Answer, error) {
	a, err := c.web.Do(ctx, s, r)
	switch {
	case err != nil && ctx.Err() == nil:
		c.silent.Add(s, struct{}{})
		c.log.InfoContext(ctx, "application service does not answer", "id", s.ID, "kind", kind, "err", err)
		fallthrough
	case err != nil, a.Status >= http.StatusInternalServerError:
		c.asked.WithLabelValues(kind, "error").Inc()
	case a.OK():
		c.asked.WithLabelValues(kind, "yes").Inc()
	default:
		c.asked.WithLabelValues(kind, "no").Inc()
	}
	return a, err
}

// answers says whether a service may be asked now.
func (c *Client) answers(s *appservice.Service) bool {
	_, silent := c.silent.Peek(s)
	return s.URL != "" && !silent
}

// each calls f for services, some at a time.
func each(services []*appservice.Service, f func(i int, s *appservice.Service)) {
	var g errgroup.Group
	g.SetLimit(most)
	for i, s := range services {
		g.Go(func() error { f(i, s); return nil })
	}
	_ = g.Wait() // no function returns an error
}

// User asks whether a local user exists that has no account. After yes there is one.
func (c *Client) User(ctx context.Context, user id.User) (bool, error) {
	if c == nil {
		return false, nil
	}
	services := c.concerned(user.Server(), c.apps.OwnerOfUser(user), func(s *appservice.Service) bool { return s.MayActAs(user) })
	return c.exists(ctx, services, kindUser, "/_matrix/app/v1/users/", string(user))
}

// UserMade asks as User does. That nobody answers is logged, and counts as no.
func (c *Client) UserMade(ctx context.Context, user id.User) bool {
	made, err := c.User(ctx, user)
	if err != nil {
		c.log.InfoContext(ctx, "whether a user exists is not known", "user", user, "err", err)
	}
	return made
}

// Concerns says whether there is a service that would be asked about a local user.
func (c *Client) Concerns(user id.User) bool {
	return c != nil && slices.ContainsFunc(c.apps.All(), func(s *appservice.Service) bool { return s.URL != "" && s.MayActAs(user) })
}

// Alias asks whether a local alias exists that nobody here knows. After yes it does.
func (c *Client) Alias(ctx context.Context, alias id.Alias) (bool, error) {
	if c == nil {
		return false, nil
	}
	services := c.concerned(alias.Server(), c.apps.OwnerOfAlias(alias), func(s *appservice.Service) bool { return s.InterestedInAlias(alias) })
	return c.exists(ctx, services, kindAlias, "/_matrix/app/v1/rooms/", string(alias))
}

// concerned returns the services to ask about an id.
func (c *Client) concerned(server id.Server, owner *appservice.Service, interested func(*appservice.Service) bool) []*appservice.Service {
	if owner != nil {
		return []*appservice.Service{owner}
	}
	var out []*appservice.Service
	for _, s := range c.apps.All() {
		if s.Server == server && s.URL != "" && len(out) < most && interested(s) {
			out = append(out, s)
		}
	}
	return out
}

// exists asks services about an id. Who asks the same at the same time gets the same answer.
func (c *Client) exists(ctx context.Context, services []*appservice.Service, kind, path, name string) (bool, error) {
	services = slices.DeleteFunc(services, func(s *appservice.Service) bool { return s.URL == "" })
	if len(services) == 0 {
		return false, nil
	}
	key := fmt.Sprint(c.apps.Current().Version(), " ", name)
	if no, ok := c.absent.Get(key); ok {
		return false, no
	}
	ch := c.flight.DoChan(key, func() (any, error) {
		// The work is shared: it does not end with the request that happened to start it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		found, err := c.askAll(ctx, services, kind, path+url.PathEscape(name))
		if !found {
			c.absent.Add(key, err)
		}
		return found, err
	})
	select {
	case res := <-ch:
		return res.Val.(bool), res.Err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// askAll asks services at once. One yes is enough, and ends the others.
func (c *Client) askAll(ctx context.Context, services []*appservice.Service, kind, path string) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	said := make([]error, len(services))
	yes := make(chan struct{}, len(services))
	each(services, func(i int, s *appservice.Service) {
		if !c.answers(s) {
			said[i] = ErrNoAnswer
			return
		}
		a, err := c.ask(ctx, s, kind, asclient.Request{Method: http.MethodGet, Path: path, Timeout: askTime})
		switch {
		case err != nil || a.Status >= http.StatusInternalServerError:
			said[i] = ErrNoAnswer
		case a.OK():
			yes <- struct{}{}
			cancel()
		}
	})
	if len(yes) > 0 {
		return true, nil
	}
	return false, errors.Join(said...)
}

// Ping asks a service whether it is there (application service API, "Pinging"). It does so even if the service has not answered
// lately.
func (c *Client) Ping(ctx context.Context, s *appservice.Service, txn string) (asclient.Answer, time.Duration, error) {
	body := struct {
		Txn string `json:"transaction_id,omitempty"`
	}{txn}
	raw, err := json.Marshal(body)
	if err != nil {
		return asclient.Answer{}, 0, err
	}
	start := time.Now()
	a, err := c.ask(ctx, s, kindPing, asclient.Request{Method: http.MethodPost, Path: "/_matrix/app/v1/ping", Body: raw, Timeout: askTime})
	if err == nil {
		c.silent.Remove(s)
	}
	return a, time.Since(start), err
}

// unknown says whether an answer means that the service does not know the endpoint ("Unknown routes").
func unknown(a asclient.Answer) bool {
	if a.Status != http.StatusNotFound && a.Status != http.StatusMethodNotAllowed && a.Status != http.StatusNotImplemented {
		return false
	}
	var e struct {
		Code string `json:"errcode"`
	}
	return json.Unmarshal(a.Body, &e) != nil || e.Code == "" || e.Code == merr.CodeUnrecognized
}
