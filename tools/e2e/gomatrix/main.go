//go:build goolm

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"maunium.net/go/mautrix"
)

// request is a line that the test writes.
type request struct {
	ID int             `json:"id"`
	As string          `json:"as"`
	Do string          `json:"do"`
	In json.RawMessage `json:"in"`
}

// answer is a line for each request, failure is set if it failed.
type answer struct {
	ID      int      `json:"id"`
	Out     any      `json:"out,omitempty"`
	Failure *failure `json:"failure,omitempty"`
}

type failure struct {
	Status  int    `json:"status,omitempty"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

// out writes lines; the notes of all people go through it.
var out struct {
	sync.Mutex
	w *bufio.Writer
}

func write(line any) {
	raw, err := json.Marshal(line)
	if err != nil {
		fmt.Fprintln(os.Stderr, "marshal:", err)
		return
	}
	out.Lock()
	defer out.Unlock()
	_, _ = out.w.Write(append(raw, '\n'))
	_ = out.w.Flush() // the reader is gone: standard input ends too
}

func main() {
	out.w = bufio.NewWriter(os.Stdout)
	if err := serve(context.Background(), os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "gomatrix:", err)
		os.Exit(1)
	}
}

// serve answers requests, each in its own time, until the input ends.
func serve(ctx context.Context, in io.Reader) error {
	people := make(map[string]*person)
	dec := json.NewDecoder(bufio.NewReader(in))
	for {
		var r request
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		p := people[r.As]
		if p == nil {
			p = &person{as: r.As}
			people[r.As] = p
		}
		go func() {
			result, err := p.do(ctx, r)
			write(answer{ID: r.ID, Out: result, Failure: failed(err)})
		}()
	}
}

// failed returns what the test is told about an error.
func failed(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Message: err.Error()}
	var httpErr mautrix.HTTPError
	if errors.As(err, &httpErr) {
		if httpErr.Response != nil {
			f.Status = httpErr.Response.StatusCode
		}
		if httpErr.RespError != nil {
			f.Code = httpErr.RespError.ErrCode
		}
	}
	return f
}
