package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// scratch is a folder for the binaries built here.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "thermocline-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// release is the binary as people run it.
var release = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("THERMOCLINE_BIN"); path != "" {
		return filepath.Abs(path)
	}
	return build("thermocline")
})

// checked is the binary with what only tests want: it can be made to crash
// between the steps of an archive, and has the race detector when the tests
// have it. A server that finds a race ends at once with exit code 66, which
// every test sees.
var checked = sync.OnceValues(func() (string, error) {
	flags := []string{"-tags", "crashtest"}
	if raced {
		flags = append(flags, "-race")
	}
	return build("thermocline-checked", flags...)
})

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(scratch, name)
	args := append([]string{"build", "-buildvcs=false", "-o", path}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/thermocline")...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

func path(t testing.TB, binary func() (string, error)) string {
	t.Helper()
	p, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
