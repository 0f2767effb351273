package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// scenes at a time: they mostly wait for servers, so there may be more of them than processors.
const scenes = "6"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", scenes); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
