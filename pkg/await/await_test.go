package await_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"hanse/pkg/await"
)

// A condition that comes to hold ends the wait, one that holds already does not begin it.
func TestHolds(t *testing.T) {
	n := 0
	await.Nil(t, time.Minute, "third time", func() error {
		if n++; n < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	await.True(t, time.Nanosecond, "at once", func() bool { n++; return true })
	if n != 4 {
		t.Errorf("%d checks", n)
	}
}

// fake notes how a test fails.
type fake struct {
	testing.TB
	said string
}

func (f *fake) Helper() {}

func (f *fake) Fatalf(format string, args ...any) {
	f.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// The test fails with what the check said last.
func TestTimeIsUp(t *testing.T) {
	f := &fake{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		await.Nil(f, time.Millisecond, "never", func() error { return errors.New("no way") })
	}()
	<-done
	if !strings.Contains(f.said, "never") || !strings.Contains(f.said, "no way") {
		t.Errorf("%q", f.said)
	}
}
