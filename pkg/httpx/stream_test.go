package httpx_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"hanse/pkg/httpx"
)

// letters appends as many letters as a step says, with commas between them.
func letters(b []byte, n int) ([]byte, error) {
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, 'x')
	}
	return b, nil
}

// A stream is the list that its steps make, whichever of them are empty; a short one has a length.
func TestStream(t *testing.T) {
	for _, c := range []struct {
		steps []int
		more  bool
		want  string
	}{
		{nil, false, "[]"}, {[]int{0, 0}, false, "[]"}, {[]int{1}, false, "[x]"}, {[]int{0, 2, 0, 1, 0}, false, "[x,x,x]"},
		{[]int{0}, true, "[]"}, {[]int{0, 1}, true, "[,x]"},
		{[]int{200_000, 0, 200_000}, false, "[" + strings.TrimSuffix(strings.Repeat("x,", 400_000), ",") + "]"},
	} {
		w := httptest.NewRecorder()
		s := httpx.NewStream(w)
		err := s.Send(func() error {
			s.B = append(s.B, '[')
			err := httpx.StreamList(s, c.more, slices.Values(c.steps), letters)
			s.B = append(s.B, ']')
			return err
		})
		if got := w.Body.String(); err != nil || got != c.want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("steps %v: %.100s, %v", c.steps, got, err)
		}
		if long := len(c.want) > 1000; long == (w.Header().Get("Content-Length") != "") || w.Flushed {
			t.Errorf("steps %v: headers %v", c.steps, w.Header())
		}
	}
}

// An error is an answer as long as nothing was sent, and breaks the connection off then.
func TestStreamFails(t *testing.T) {
	failure := errors.New("no more")
	for _, sent := range []bool{false, true} {
		w := httptest.NewRecorder()
		s := httpx.NewStream(w)
		aborted := func() (is bool) {
			defer func() {
				err, _ := recover().(error)
				is = errors.Is(err, http.ErrAbortHandler)
			}()
			err := s.Send(func() error {
				steps := []int{400_000, -1}
				if !sent {
					steps = []int{1, -1}
				}
				return httpx.StreamList(s, false, slices.Values(steps), func(b []byte, n int) ([]byte, error) {
					if n < 0 {
						return nil, failure
					}
					return letters(b, n)
				})
			})
			if !errors.Is(err, failure) {
				t.Errorf("Send returns %v", err)
			}
			return false
		}()
		if aborted != sent || (w.Body.Len() > 0) != sent {
			t.Errorf("sent %t: aborted %t, %d bytes were sent", sent, aborted, w.Body.Len())
		}
	}
}

// So many large answers are under way, others wait; of these so many make a step.
func TestLarge(t *testing.T) {
	l := httpx.NewLarge("x", nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var leave []func()
	for range 5 {
		if next, err := l.Begin(gone, "@0:a"); err == nil {
			leave = append(leave, next)
		}
	}
	if len(leave) != 4 {
		t.Fatalf("%d answers of one user are under way", len(leave))
	}
	for {
		next, err := l.Begin(gone, fmt.Sprint("@", len(leave)/4, ":a"))
		if err != nil {
			break
		}
		leave = append(leave, next)
	}
	if len(leave) != 32 {
		t.Fatalf("%d answers are under way", len(leave))
	}
	waiting := make(chan func())
	go func() {
		next, err := l.Begin(t.Context(), "@a:b")
		if err != nil {
			t.Error(err)
		}
		waiting <- next
	}()
	leave[0]()
	leave[0] = <-waiting
	for _, f := range leave {
		f()
	}
	var done []func()
	for range 2 {
		f, err := l.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, f)
	}
	if _, err := l.Step(gone); !errors.Is(err, context.Canceled) {
		t.Fatalf("a third step: %v", err)
	}
	for _, f := range done {
		f()
	}
	if l.Len() != 0 {
		t.Fatalf("%d places are taken", l.Len())
	}
}
