package catalog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// The environment of a child process: see TestMain.
const (
	childTask    = "CATALOG_TEST_TASK"
	childCatalog = "CATALOG_TEST_FILE"
)

// What a child does.
const (
	taskSwap  = "swap"  // swapMany on the first table
	taskWrite = "write" // writeForever
	taskFill  = "fill"  // writeForever with files that cannot grow far
)

func runChild(task, path string) error {
	ctx := context.Background()
	c, err := Open(ctx, Options{Path: path})
	if err != nil {
		return err
	}
	switch task {
	case taskSwap:
		b, err := c.BranchByID(ctx, 1)
		if err != nil {
			return err
		}
		return errors.Join(swapMany(ctx, c, b.TableUUID, "child"), c.Close())
	case taskFill:
		// Without the signal, a write beyond the limit fails with EFBIG.
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 600 << 10, Max: 600 << 10}); err != nil {
			return err
		}
	}
	return writeForever(ctx, c)
}

func (f *fixture) startChild(t *testing.T, task string) *exec.Cmd {
	t.Helper()
	cmd := f.child(t, task)
	ok(t, cmd.Start())
	return cmd
}

func (f *fixture) child(t *testing.T, task string) *exec.Cmd {
	exe, err := os.Executable()
	ok(t, err)
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childTask+"="+task, childCatalog+"="+f.path)
	cmd.Stderr = os.Stderr
	return cmd
}

// writeForever changes everything that has an invariant, step by step, and prints
// the number of each step once it is acknowledged. On the catalog: stream "p" with
// a pointer at the step's number, a subscriber with as many sessions and its
// position there, and equal checkpoints on its two branches; stream "r" that is
// reset, and streams that come and go.
func writeForever(ctx context.Context, c *Catalog) error {
	_, p, err := c.Resolve(ctx, DefaultNamespace, "p", MainBranch)
	if err != nil {
		return err
	}
	_, r, err := c.Resolve(ctx, DefaultNamespace, "r", MainBranch)
	if err != nil {
		return err
	}
	branches, err := c.Branches(ctx, p.Stream, 0, 0)
	if err != nil {
		return err
	}
	at, err := c.TablePointer(ctx, p.TableUUID)
	if err != nil {
		return err
	}
	step, err := strconv.Atoi(at)
	if err != nil {
		return err
	}
	g, err := c.Subscriber(ctx, p.ID, "g")
	if err != nil {
		return err
	}
	last, err := c.LatestCheckpoint(ctx, p.View.ID)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return err
	}
	for number := last.Number + 1; ; number++ {
		var cps []Checkpoint
		for _, b := range branches {
			cps = append(cps, Checkpoint{View: b.View.ID, Number: number, Cut: record.Offsets{record.Offset(number)}, Timestamp: number})
		}
		if err := c.AddCheckpoints(ctx, cps); err != nil {
			return err
		}
		if r, err = c.ResetBranch(ctx, r.ID, r.Version, Reset{}); err != nil {
			return err
		}
		s, _, err := c.CreateStream(ctx, NewStream{Name: "x" + strconv.FormatInt(number, 10), Schema: newSchema(schema.FirstUserID, "a")})
		if err != nil {
			return err
		}
		if number%2 == 0 {
			if _, err := c.DeleteStream(ctx, s.ID, time.Now()); err != nil {
				return err
			}
		}
		if _, err := c.BeginSession(ctx, g.ID); err != nil {
			return err
		}
		moved, err := c.CommitSubscribers(ctx, []SubscriberCommit{{ID: g.ID, Generation: 1, View: p.View.ID, Next: record.Offsets{record.Offset(step + 1)}}})
		if err != nil || moved[0] != nil {
			return errors.Join(append(moved, err)...)
		}
		err = c.SwapTablePointer(ctx, p.TableUUID, strconv.Itoa(step), strconv.Itoa(step+1))
		if err != nil {
			return err
		}
		step++
		fmt.Println(step)
	}
}

func newWriteFixture(t *testing.T) *fixture {
	f := newFixture(t)
	_, p := f.stream(t, "p")
	f.secondBranch(t, p, "exp")
	f.subscriber(t, p, "g", Subscriber{})
	f.stream(t, "r")
	ok(t, f.CreateTablePointer(t.Context(), p.TableUUID, "0"))
	return f
}

// checkWritten checks what must hold wherever writeForever was stopped after it
// had printed acked.
func (f *fixture) checkWritten(t *testing.T, acked int) {
	t.Helper()
	_, p, err := f.Resolve(t.Context(), DefaultNamespace, "p", MainBranch)
	ok(t, err)
	at, err := f.TablePointer(t.Context(), p.TableUUID)
	ok(t, err)
	if step, err := strconv.Atoi(at); err != nil || step < acked || step > acked+1 {
		t.Errorf("pointer at %s, step %d was acknowledged", at, acked)
	}
	if g, err := f.Subscriber(t.Context(), p.ID, "g"); err != nil || g.Session < int64(acked) || g.Next.At(0) < record.Offset(acked) {
		t.Errorf("subscriber %+v, %v; step %d was acknowledged", g, err, acked)
	}
	for what, query := range map[string]string{
		"branches with other than one active view": `SELECT count(*) FROM branches b WHERE
			(SELECT count(*) FROM views v WHERE v.branch_id = b.id AND v.state = 'ACTIVE') <> 1`,
		"streams whose view numbers have a gap": `SELECT count(*) FROM streams s WHERE s.deleted_ms = 0 AND s.last_view_number <>
			(SELECT count(*) FROM views v WHERE v.stream_id = s.id)`,
		"views whose checkpoints have a gap": `SELECT count(*) FROM views v WHERE v.last_checkpoint <>
			(SELECT count(*) FROM checkpoints c WHERE c.view_id = v.id)`,
		"checkpoints on one branch of two": `SELECT count(*) FROM (SELECT number FROM checkpoints GROUP BY number HAVING count(*) <> 2)`,
		"branches of deleted streams":      `SELECT count(*) FROM branches b JOIN streams s ON s.id = b.stream_id WHERE s.deleted_ms <> 0`,
		"deleted streams without trash":    `SELECT count(*) FROM streams s WHERE s.deleted_ms <> 0 AND s.id NOT IN (SELECT stream_id FROM trash)`,
		"streams without a branch":         `SELECT count(*) FROM streams s WHERE s.deleted_ms = 0 AND s.id NOT IN (SELECT stream_id FROM branches)`,
		"ids beyond their counter": `SELECT count(*) FROM counters WHERE
			name = 'view' AND last < (SELECT max(id) FROM views) OR name = 'stream' AND last < (SELECT max(id) FROM streams)`,
	} {
		if n := f.count(t, query); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// TestKill: whenever a writer dies, what it was told is there, and every
// transaction is there wholly or not at all.
func TestKill(t *testing.T) {
	t.Parallel()
	f := newWriteFixture(t)
	for range 6 {
		ok(t, f.Close())
		cmd := f.child(t, taskWrite)
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Fatal("the child did nothing")
		}
		acked := lines.Text()
		time.AfterFunc(time.Duration(rand.IntN(int(100*time.Millisecond))), func() { _ = cmd.Process.Kill() })
		for lines.Scan() {
			acked = lines.Text()
		}
		_ = cmd.Wait()
		f.Catalog = f.open(t)
		n, err := strconv.Atoi(acked)
		ok(t, err)
		f.checkWritten(t, n)
	}
}

// TestFailingDisk: when the files cannot grow the writer gets an error, nothing
// acknowledged is lost, and the catalog goes on when there is room again.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	f := newWriteFixture(t)
	ok(t, f.Close())
	cmd := f.child(t, taskFill)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil || !strings.Contains(stderr.String(), "catalog: ") {
		t.Fatalf("the child ended with %v and said %q", err, stderr.String())
	}
	lines := strings.Fields(string(out))
	if len(lines) == 0 {
		t.Fatalf("the child did nothing: %s", stderr.String())
	}
	acked, err := strconv.Atoi(lines[len(lines)-1])
	ok(t, err)
	t.Logf("after %d steps: %s", acked, strings.TrimSpace(stderr.String()))
	f.Catalog = f.open(t)
	f.checkWritten(t, acked)
	f.stream(t, "afterwards")
}
