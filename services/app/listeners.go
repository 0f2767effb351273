package app

import (
	"context"
	"io"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"hanse/pkg/httpx"
)

// openMonitoring listens first: an operator sees a start that hangs.
func (p *process) openMonitoring(context.Context) error {
	if p.cfg.Listen.Monitoring.Address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !p.ready.Load() {
			answer(w, http.StatusServiceUnavailable, "not ready")
			return
		}
		if p.mesh != nil && p.mesh.cut.Load() {
			answer(w, http.StatusServiceUnavailable, "no other worker can be reached")
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics, promhttp.HandlerOpts{Registry: p.metrics}))
	if p.cfg.Listen.Monitoring.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	}
	return p.listen("monitoring", API{Address: p.cfg.Listen.Monitoring.Address}, mux)
}

func answer(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // whoever asked may be gone
}

// openAPIs lets requests in, when all roles are there to answer them.
func (p *process) openAPIs(context.Context) error {
	var needs need
	for _, s := range p.specs {
		needs |= s.needs
	}
	if needs&needClientAPI != 0 && p.cfg.Listen.Client.Address != "" {
		if err := p.listen("client API", p.cfg.Listen.Client, p.node.ClientAPI); err != nil {
			return err
		}
	}
	if needs&needFederationAPI != 0 && p.cfg.Listen.Federation.Address != "" {
		return p.listen("federation API", p.cfg.Listen.Federation, p.node.FederationAPI)
	}
	return nil
}

func (p *process) listen(name string, api API, h http.Handler) error {
	tc, err := api.serverTLS()
	if err != nil {
		return err
	}
	srv, err := httpx.NewServer(httpx.ServerConfig{Listen: api.Address, TLS: tc, MaxConns: p.cfg.Listen.Connections,
		Name: strings.TrimSuffix(name, " API"), Log: p.log, Registerer: p.metrics}, h)
	if err != nil {
		return err
	}
	p.log.Info("listening", "api", name, "address", srv.Addr().String(), "tls", tc != nil)
	go func() {
		if err := srv.Serve(); err != nil {
			p.fail(name, err)
		}
	}()
	p.onEnd(name, srv.Shutdown)
	return nil
}
