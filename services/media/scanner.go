package media

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hanse/pkg/mediastore"
	"hanse/pkg/merr"
)

// Scanner is what looks at files before anybody may have them.
type Scanner struct {
	URL        string        `yaml:"url" doc:"Address of the operator's scanner: see docs/media.md. Empty: there is none."`
	Token      string        `yaml:"token" secret:"true" doc:"Sent to the scanner as Authorization: Bearer."`
	Time       time.Duration `yaml:"time" doc:"How long the scanner may take for a file, with the time to send it."`
	Unanswered string        `yaml:"unanswered" doc:"What happens to a file if the scanner does not answer: refuse or accept."`
}

// What Scanner.Unanswered may be.
const (
	unansweredRefuse = "refuse"
	unansweredAccept = "accept"
)

// Validate reports what is wrong with the configuration.
func (s *Scanner) Validate() error {
	if s.Unanswered != unansweredRefuse && s.Unanswered != unansweredAccept {
		return errors.New("unanswered: refuse or accept")
	}
	if s.Time < time.Second {
		return errors.New("time: at least a second")
	}
	if s.URL == "" {
		return nil
	}
	if u, err := url.Parse(s.URL); err != nil || !isWebURL(u) {
		return errors.New("url: want an address of http or https")
	}
	return nil
}

// What a scanner says of a file.
const (
	verdictAccept  = "accept"
	verdictReject  = "reject"
	verdictContent = "content" // it wants to have the bytes
)

var (
	errRejected = errors.New("the scanner has rejected the file")
	// errBadContent is for who has uploaded it. Who asks for a file of another server learns no more than that there is none. Both
	// are as Synapse has it for its spam checkers.
	errBadContent = merr.New(http.StatusBadRequest, merr.CodeUnknown, "Bad content")
	errNotScanned = merr.New(http.StatusBadGateway, merr.CodeUnknown, "The file could not be checked")
)

// newScanner returns a client for the operator's scanner. Its address is the operator's own word, and is mostly private: what
// guards addresses that others name does not look at it. A redirect would lead elsewhere, and is not followed.
func newScanner() *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 16,
			TLSHandshakeTimeout: webDial, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// about is what a scanner is told of a file.
type about struct {
	Media string `json:"media"`
	Hash  string `json:"sha256"`
	Type  string `json:"type"`
	Bytes int64  `json:"bytes"`
	Name  string `json:"name,omitempty"`
	User  string `json:"user,omitempty"`
}

// check asks the scanner whether a file may be had: by its hash first, which a scanner may know, and by its bytes if it wants
// them. It returns errRejected if not.
func (m *Media) check(ctx context.Context, media *mediastore.Media) error {
	limited, cancel := context.WithTimeout(ctx, m.cfg.Scanner.Time)
	defer cancel()
	verdict, err := m.scan(limited, media)
	if err != nil {
		if ctx.Err() != nil {
			return err // whoever uploads it has gone
		}
		m.tried(ctx, "scanner", err)
		if m.cfg.Scanner.Unanswered == unansweredAccept {
			return nil
		}
		return errNotScanned.WithCause(err)
	}
	m.tried(ctx, "scanner", nil)
	m.metrics.scanned.WithLabelValues(verdict).Inc()
	if verdict == verdictReject {
		return errRejected
	}
	return nil
}

func (m *Media) scan(ctx context.Context, media *mediastore.Media) (verdict string, err error) {
	a := about{media.ID.String(), hex.EncodeToString(media.Hash), media.Type, media.Bytes, media.Name, string(media.User)}
	raw, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	verdict, err = m.askScanner(ctx, a, "application/json", bytes.NewReader(raw), int64(len(raw)))
	if err != nil || verdict != verdictContent {
		return verdict, err
	}
	body, err := m.store.Reader(ctx, media.Object, 0, -1)
	if err != nil {
		return "", err
	}
	defer body.Close()
	verdict, err = m.askScanner(ctx, a, anyType, body, media.Bytes)
	if err == nil && verdict == verdictContent {
		err = errors.New("the scanner has the bytes, and asks for them")
	}
	return verdict, err
}

// scannerBytes bounds an answer of the scanner.
const scannerBytes = 64 << 10

func (m *Media) askScanner(ctx context.Context, a about, contentType string, body io.Reader, length int64) (verdict string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.cfg.Scanner.URL, body)
	if err != nil {
		return "", err
	}
	if r.ContentLength = length; length == 0 {
		r.Body = http.NoBody
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("X-Media", a.Media)
	r.Header.Set("X-Media-Sha256", a.Hash)
	r.Header.Set("X-Media-Type", a.Type)
	r.Header.Set("X-Media-Bytes", strconv.FormatInt(a.Bytes, 10))
	if m.cfg.Scanner.Token != "" {
		r.Header.Set("Authorization", "Bearer "+m.cfg.Scanner.Token)
	}
	resp, err := m.scanner.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the scanner answers %d", resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, scannerBytes))
	if err != nil {
		return "", err
	}
	var answer struct {
		Verdict string `json:"verdict"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return "", fmt.Errorf("the scanner's answer: %w", err)
	}
	switch answer.Verdict {
	case verdictAccept, verdictReject, verdictContent:
		return answer.Verdict, nil
	}
	return "", fmt.Errorf("the scanner answers %.40q", answer.Verdict)
}

// put stores a file, which the scanner sees before anybody else does.
func (m *Media) put(ctx context.Context, u mediastore.Upload, r io.Reader) (*mediastore.Media, error) {
	if m.scanner != nil {
		u.Check = m.check
	}
	return m.store.Put(ctx, u, r)
}
