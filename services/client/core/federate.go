package core

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"hanse/pkg/matrix/canonjson"
	"hanse/pkg/matrix/id"
	"hanse/pkg/merr"
	fedv1 "hanse/proto/federation/v1"
)

// maxFederationAnswer bounds what another server may answer to a request of a client, in bytes.
const maxFederationAnswer = 8 << 20

// Federate makes a request to another server, on behalf of one of ours, and decodes its answer. A Matrix error of the
// other server is returned as such (a *merr.Error with its status); that it cannot be reached is a 502. As a user waits
// for it, the server is asked even while it backs off.
func (c *Core) Federate(ctx context.Context, origin, destination id.Server, method, uri string, body, answer any, timeout time.Duration) error {
	return c.askServer(ctx, &fedv1.DoRequest{
		Origin: string(origin), Destination: string(destination), Method: method, Uri: uri,
		TimeoutMs: timeout.Milliseconds(), MaxBytes: maxFederationAnswer, IgnoreBackoff: true,
	}, body, answer, timeout)
}

// FederateSparing is Federate for what clients ask often and of many servers at once: a server for which somebody has
// waited long in vain a moment ago is not asked while it backs off.
func (c *Core) FederateSparing(ctx context.Context, origin, destination id.Server, method, uri string, body, answer any, timeout time.Duration) error {
	return c.askServer(ctx, &fedv1.DoRequest{
		Origin: string(origin), Destination: string(destination), Method: method, Uri: uri,
		TimeoutMs: timeout.Milliseconds(), MaxBytes: maxFederationAnswer, IgnoreBackoff: true, Sparing: true,
	}, body, answer, timeout)
}

func (c *Core) askServer(ctx context.Context, req *fedv1.DoRequest, body, answer any, timeout time.Duration) error {
	if body != nil {
		var err error
		if req.Body, err = json.Marshal(body); err != nil {
			return fmt.Errorf("marshal request: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+time.Second)
	defer cancel()
	status, raw, err := c.doFederate(ctx, req)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return remoteError(status, raw)
	}
	if err := canonjson.Decode(raw, answer); err != nil {
		return merr.BadGateway("The answer of " + req.Destination + " was not understood").WithCause(err)
	}
	return nil
}

func (c *Core) doFederate(ctx context.Context, req *fedv1.DoRequest) (status int, body []byte, err error) {
	if c.fedout == nil {
		return 0, nil, merr.BadGateway("Federation is not available")
	}
	stream, err := c.fedout.Do(ctx, req)
	if err != nil {
		return 0, nil, unreachable(req, err)
	}
	var buf bytes.Buffer
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status, buf.Bytes(), nil
		}
		if err != nil {
			return 0, nil, unreachable(req, err)
		}
		if part.Status != 0 {
			status = int(part.Status)
		}
		if buf.Len()+len(part.Chunk) > maxFederationAnswer {
			return 0, nil, merr.BadGateway("The answer of " + req.Destination + " was too large")
		}
		buf.Write(part.Chunk)
	}
}

func unreachable(req *fedv1.DoRequest, err error) error {
	if e, ok := merr.As(err); ok {
		return e
	}
	return merr.BadGateway("Cannot reach " + req.Destination).WithCause(err)
}

// remoteError passes a Matrix error of another server on. What could make a local client believe something wrong
// about itself (that it is logged out, or too fast) becomes a 502.
func remoteError(status int, raw []byte) error {
	var e struct {
		Code string `json:"errcode"`
		Msg  string `json:"error"`
	}
	if json.Unmarshal(raw, &e) != nil || e.Code == "" || status < 400 || status == http.StatusUnauthorized ||
		status == http.StatusTooManyRequests || status >= 500 {
		return merr.BadGateway(fmt.Sprintf("The other server answered %d", status))
	}
	return merr.New(status, e.Code, e.Msg)
}
