package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is a thermocline process and its data directory. It may be killed and
// started again; the address stays what it was at first.
type server struct {
	binary  string
	dir     string   // data/, address, log
	address string   // host:port once started
	args    []string // of serve, beside the usual ones
	env     []string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has been waited for
	log     *logFile
}

// startServer runs binary on an empty data directory until the test ends. A
// failed test shows the end of its log.
func startServer(t *testing.T, binary func() (string, error), env ...string) *server {
	t.Helper()
	s := &server{binary: path(t, binary), dir: t.TempDir(), log: &logFile{}}
	t.Cleanup(func() {
		if s.cmd != nil {
			s.kill(t)
		}
		if t.Failed() {
			t.Logf("end of the server's log:\n%s", s.log.tail(8<<10))
		}
	})
	s.start(t, env...)
	return s
}

func (s *server) start(t *testing.T, env ...string) {
	t.Helper()
	if err := s.tryStart(env...); err != nil {
		t.Fatal(err)
	}
}

// errEnded: the process ended before it served.
var errEnded = errors.New("the server ended before it served")

func (s *server) addressFile() string { return filepath.Join(s.dir, "address") }

// launch starts a process and does not wait until it serves.
func (s *server) launch(env ...string) (*exec.Cmd, chan struct{}, error) {
	if err := os.RemoveAll(s.addressFile()); err != nil {
		return nil, nil, err
	}
	listen := s.address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	cmd := exec.Command(s.binary, "serve", "--data", filepath.Join(s.dir, "data"), "--listen", listen, "--address-file", s.addressFile())
	cmd.Args = append(cmd.Args, s.args...)
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	cmd.Env = append(append(cmd.Env, s.env...), env...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // its outcome is in cmd.ProcessState
		close(ended)
	}()
	return cmd, ended, nil
}

func (s *server) tryStart(env ...string) error {
	cmd, ended, err := s.launch(env...)
	if err != nil {
		return err
	}
	s.cmd, s.ended = cmd, ended
	for deadline := time.After(60 * time.Second); ; {
		if text, err := os.ReadFile(s.addressFile()); err == nil && len(text) > 0 {
			// Written once: tests go on using it while the server is started again.
			if address := strings.TrimSpace(string(text)); address != s.address {
				s.address = address
			}
			return nil
		}
		select {
		case <-ended:
			s.cmd = nil
			return fmt.Errorf("%w: %s", errEnded, cmd.ProcessState)
		case <-deadline:
			cmd.Process.Kill()
			return errors.New("the server wrote no address within a minute")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill ends the process the hard way and waits for it.
func (s *server) kill(t *testing.T) {
	t.Helper()
	cmd := s.cmd
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-s.ended
	s.cmd = nil
	if w, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || w.Signal() != syscall.SIGKILL {
		t.Errorf("the server had ended before it was killed: %s", cmd.ProcessState)
	}
}

// awaitCrash waits for a process that is about to kill itself.
func (s *server) awaitCrash(t *testing.T) {
	t.Helper()
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the server should have crashed within 30 s")
	}
	state := s.cmd.ProcessState
	s.cmd = nil
	if w, ok := state.Sys().(syscall.WaitStatus); !ok || w.Signal() != syscall.SIGKILL {
		t.Fatalf("the server should have died of SIGKILL, not: %s", state)
	}
}

// shutdownLimit is how long a clean shutdown may take.
const shutdownLimit = 10 * time.Second

// stop asks for a clean shutdown, and fails unless there is one.
func (s *server) stop(t *testing.T) {
	t.Helper()
	begun := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ended:
	case <-time.After(shutdownLimit):
		s.cmd.Process.Signal(syscall.SIGQUIT) // the log then shows what it waits for
		<-s.ended
		t.Errorf("the server was still running %s after SIGTERM", shutdownLimit)
	}
	state := s.cmd.ProcessState
	s.cmd = nil
	if state.ExitCode() != 0 {
		t.Errorf("clean shutdown: %s, want exit code 0", state)
	}
	t.Logf("clean shutdown took %s", time.Since(begun).Round(time.Millisecond))
}

// peakMemory is the most memory that the process ever held, in bytes.
func (s *server) peakMemory(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Skipf("peak memory is only known on Linux: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmHWM in /proc")
	return 0
}

// run runs a command of the binary against the server and returns its output.
func (s *server) run(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := s.command(t, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("thermocline %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

func (s *server) command(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), s.binary, args...)
	cmd.Env = append(os.Environ(), "THERMOCLINE_SERVER=http://"+s.address)
	return cmd
}

// logFile keeps what processes print; it is safe for concurrent use.
type logFile struct {
	mu   sync.Mutex
	text []byte
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *logFile) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text[max(0, len(l.text)-n):])
}
