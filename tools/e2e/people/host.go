package people

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// Kind is a Matrix client library.
type Kind string

// Kinds that there are.
const (
	Go Kind = "mautrix-go"
	JS Kind = "matrix-js-sdk"
)

// Failure is a request that did not do what it should have; Status and Code are set if a server refused.
type Failure struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (f *Failure) Error() string {
	return fmt.Sprintf("%d %s: %s", f.Status, f.Code, f.Message)
}

// IsCode tells whether err is a server's refusal with the errcode.
func IsCode(err error, code string) bool {
	var f *Failure
	return errors.As(err, &f) && f.Code == code
}

// Host is a process in which people of one kind live.
type Host struct {
	Kind  Kind
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}

	mu      sync.Mutex
	next    int
	pending map[int]chan answer
	people  map[string]*Person
	failure error // why the process ended
}

type answer struct {
	ID      int             `json:"id"`
	Out     json.RawMessage `json:"out"`
	Failure *Failure        `json:"failure"`
}

// line is whatever the process writes.
type line struct {
	answer
	Note
	As string `json:"as"`
}

// Start starts a process for a kind of people. Its standard error goes to a file in logDir.
func Start(kind Kind, logDir string) (*Host, error) {
	command, err := program(kind)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	logFile, err := os.Create(filepath.Join(logDir, string(kind)+".log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd.Stderr = logFile
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", kind, err)
	}
	h := &Host{Kind: kind, cmd: cmd, stdin: stdin, ended: make(chan struct{}), pending: make(map[int]chan answer), people: make(map[string]*Person)}
	go h.read(stdout)
	return h, nil
}

// read distributes what the process writes until it ends.
func (h *Host) read(r io.Reader) {
	err := h.lines(r)
	if waitErr := h.cmd.Wait(); err == nil {
		err = waitErr
	}
	h.mu.Lock()
	h.failure = fmt.Errorf("%s has ended: %w", h.Kind, errors.Join(io.EOF, err))
	h.mu.Unlock()
	close(h.ended)
}

func (h *Host) lines(r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<20)
	for {
		raw, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var l line
		if err := json.Unmarshal(raw, &l); err != nil {
			return fmt.Errorf("a line that is no JSON: %q", raw)
		}
		h.mu.Lock()
		p, waiting := h.people[l.As], h.pending[l.ID]
		delete(h.pending, l.ID)
		h.mu.Unlock()
		switch {
		case l.Kind != "" && p != nil:
			p.add(l.Note)
		case waiting != nil:
			waiting <- l.answer
		}
	}
}

// call sends a request and waits for its answer.
func (h *Host) call(ctx context.Context, as, do string, in, out any) error {
	answered := make(chan answer, 1)
	h.mu.Lock()
	h.next++
	id := h.next
	h.pending[id] = answered
	raw, err := json.Marshal(map[string]any{"id": id, "as": as, "do": do, "in": in})
	if err == nil {
		_, err = h.stdin.Write(append(raw, '\n'))
	}
	h.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	select {
	case a := <-answered:
		if a.Failure != nil {
			return fmt.Errorf("%s as %s of %s: %w", do, as, h.Kind, a.Failure)
		}
		if out == nil || len(a.Out) == 0 {
			return nil
		}
		return json.Unmarshal(a.Out, out)
	case <-h.ended:
		return h.failure
	case <-ctx.Done():
		return fmt.Errorf("%s as %s of %s: %w", do, as, h.Kind, ctx.Err())
	}
}

// Close ends the process and all people in it.
func (h *Host) Close() error {
	if err := h.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-h.ended
	return nil
}
