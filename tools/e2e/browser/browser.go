package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/evanw/esbuild/pkg/api"

	"hanse/tools/e2e/people"
)

// patience is how long a page has to show what is expected of it.
const patience = 2 * time.Minute

// Browser is a Chromium and the server of the page of js/page.mjs.
type Browser struct {
	ctx  context.Context
	page string
}

// Open builds the page and starts Chromium; both end with the test.
func Open(t *testing.T) *Browser {
	t.Helper()
	dir, err := people.Packages()
	if err != nil {
		t.Fatal(err)
	}
	built := api.Build(api.BuildOptions{
		EntryPoints: []string{filepath.Join(dir, "page.mjs")}, Bundle: true, Format: api.FormatESModule, Platform: api.PlatformBrowser,
		Target: api.ES2022, Define: map[string]string{"global": "globalThis"}, LogLevel: api.LogLevelError,
	})
	if len(built.Errors) > 0 {
		t.Fatalf("bundle the page: %v", built.Errors[0])
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(`<!doctype html><title>Hanse</title><script type="module" src="page.js"></script><body></body>`))
	})
	mux.HandleFunc("GET /page.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = w.Write(built.OutputFiles[0].Contents)
	})
	wasm := filepath.Join(dir, "node_modules", "@matrix-org", "matrix-sdk-crypto-wasm", "pkg")
	mux.Handle("GET /pkg/", http.StripPrefix("/pkg/", http.FileServer(http.Dir(wasm))))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox,
		chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(patience))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	return &Browser{ctx: ctx, page: "http://" + listener.Addr().String() + "/"}
}

// Person is the page, open in a profile of its own: one device of somebody.
type Person struct {
	t    *testing.T
	name string
	b    *Browser
	ctx  context.Context

	mu   sync.Mutex
	said []string // what the page complained of
}

// Person opens the page for somebody. When the test fails, a picture of it is kept.
func (b *Browser) Person(t *testing.T, name string) *Person {
	t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	p := &Person{t: t, name: name, b: b, ctx: ctx}
	t.Cleanup(func() {
		if t.Failed() {
			p.picture()
			p.mu.Lock()
			t.Logf("%s's page complained:\n%s", name, strings.Join(p.said[max(0, len(p.said)-30):], "\n"))
			p.mu.Unlock()
		}
		cancel()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("%s: open a tab: %v", name, err)
	}
	go p.heed()
	p.Load()
	return p
}

// heed logs what the page complains of, until it is closed.
func (p *Person) heed() {
	for m, err := range chromedp.Console(p.ctx) {
		if err != nil {
			return
		}
		if m.IsException() || m.Type == "error" || m.Type == "warning" {
			p.mu.Lock()
			p.said = append(p.said, m.String())
			p.mu.Unlock()
		}
	}
}

// Load loads the page, again if it is open: what it held in memory is gone.
func (p *Person) Load() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(p.b.page), chromedp.Poll[chromedp.Void]("window.app !== undefined", chromedp.WithPollingTimeout(patience))); err != nil {
		p.t.Fatalf("%s: load the page: %v", p.name, err)
	}
}

// Do calls a function of the page's app and returns what it comes to.
func (p *Person) Do(function string, args ...any) json.RawMessage {
	p.t.Helper()
	raw, err := json.Marshal(append([]any{}, args...))
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	call := fmt.Sprintf(`(async () => JSON.stringify(await app.%s(...%s)) ?? "null")()`, function, raw)
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](call, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %s(%s): %v", p.name, function, raw, err)
	}
	return json.RawMessage(text)
}

// Text is Do for functions that come to a text.
func (p *Person) Text(function string, args ...any) string {
	p.t.Helper()
	var s string
	if raw := p.Do(function, args...); json.Unmarshal(raw, &s) != nil {
		p.t.Fatalf("%s: %s: %s is no text", p.name, function, raw)
	}
	return s
}

// Sees waits until the element with an id shows all of the texts, and none that begins with "-".
func (p *Person) Sees(id string, texts ...string) {
	p.t.Helper()
	raw, err := json.Marshal(texts)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Holds(fmt.Sprintf("%s shows %q", id, texts), fmt.Sprintf(`(() => {
		const text = document.getElementById(%q)?.innerText;
		return text !== undefined && %s.every((t) => t.startsWith("-") ? !text.includes(t.slice(1)) : text.includes(t));
	})()`, id, raw))
}

// SeesPicture waits until the element with an id shows a picture that has been loaded.
func (p *Person) SeesPicture(id string) {
	p.t.Helper()
	p.Holds(id+" shows a picture", fmt.Sprintf(`(document.getElementById(%q)?.querySelector("img")?.naturalWidth ?? 0) > 0`, id))
}

// Holds waits until an expression is true in the page.
func (p *Person) Holds(what, expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience+time.Minute)
	defer cancel()
	poll := chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingInterval(200*time.Millisecond), chromedp.WithPollingTimeout(patience))
	if err := chromedp.Do(ctx, poll); err != nil {
		text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
		p.t.Fatalf("%s: not seen: %s: %v\nThe page:\n%s", p.name, what, err, text)
	}
}

func (p *Person) picture() {
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Logf("%s: no screenshot: %v", p.name, err)
		return
	}
	file := filepath.Join(os.TempDir(), fmt.Sprintf("hanse-browser-%s-%s.png", strings.ReplaceAll(p.t.Name(), "/", "-"), p.name))
	if err := os.WriteFile(file, png, 0o600); err != nil {
		p.t.Logf("%s: no screenshot: %v", p.name, err)
		return
	}
	p.t.Logf("%s: screenshot in %s", p.name, file)
}
