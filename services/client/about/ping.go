package about

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"hanse/pkg/asclient"
	"hanse/pkg/httpx"
	"hanse/pkg/merr"
	"hanse/services/client/core"
)

func (c *About) pingRoutes(rt *core.Routes) {
	rt.AuthV1.Handle("POST /appservice/{appserviceId}/ping", c.ping)
	rt.Unstable("/fi.mau.msc2659").Handle("POST /appservice/{appserviceId}/ping", c.ping) // MSC2659
}

// maxShown bounds what of a service's answer it is shown again, in bytes.
const maxShown = 16 << 10

// ping answers POST /appservice/{appserviceId}/ping (application service API, "Pinging").
func (c *About) ping(w http.ResponseWriter, r *http.Request) error {
	s := core.Me(r).Appservice
	if s == nil || s.ID != core.Param(r, "appserviceId") || c.Queries == nil {
		return merr.Forbidden("The access token is not that of this application service")
	}
	var q struct {
		Txn string `json:"transaction_id"`
	}
	if err := httpx.Decode(r, &q); err != nil {
		return err
	}
	if s.URL == "" {
		return merr.New(http.StatusBadRequest, merr.CodeURLNotSet, "The application service has no url")
	}
	answer, took, err := c.Queries.Ping(r.Context(), s, q.Txn)
	if err != nil && !errors.Is(err, asclient.ErrTooLarge) {
		return pingFailed(err)
	}
	if !answer.OK() {
		shown := strings.ToValidUTF8(string(answer.Body[:min(len(answer.Body), maxShown)]), "\uFFFD")
		return merr.New(http.StatusBadGateway, merr.CodeBadStatus, fmt.Sprintf("The ping was answered with status %d", answer.Status)).
			With("status", answer.Status).With("body", shown)
	}
	if err := c.bus.WakeAppservice(s.ID); err != nil {
		c.Log.DebugContext(r.Context(), "application service not woken", "id", s.ID, "err", err) // it is tried again by the clock
	}
	return httpx.OK(w, map[string]int64{"duration_ms": took.Milliseconds()})
}

func pingFailed(err error) error {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return merr.New(http.StatusGatewayTimeout, merr.CodeConnectionTimeout, "The application service did not answer in time").WithCause(err)
	}
	return merr.New(http.StatusBadGateway, merr.CodeConnectionFailed, "The application service cannot be reached").WithCause(err)
}
