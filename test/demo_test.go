package test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestDemo runs what `make demo` runs, except that it ends where the demo
// would go on serving.
func TestDemo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path(t, release), "demo", "--exit", "--listen", "127.0.0.1:0")
	cmd.Dir = ".." // where make runs it
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
	for _, want := range []string{"1,707", "http://", "hot", "cold"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
}
