package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// Views of streams that were deleted are dropped at the next start, if a crash
// came between; views that the catalog never knew are not, and the start fails.
func TestOpenDropsOnlyWhatTheCatalogForgot(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(10)
	st := w.state()
	if _, err := w.node.catalog.DeleteStream(t.Context(), st.Stream.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	if v := w.node.log.Views(); len(v) != 1 {
		t.Fatalf("views %v", v)
	}
	w.restart()
	if v := w.node.log.Views(); len(v) != 0 {
		t.Fatalf("after a restart: views %v", v)
	}
	w.create(catalog.Settings{})
	w.publish(10)
	w.stop()

	// The catalog is lost, and a new one begins.
	lost := filepath.Join(t.TempDir(), "lost")
	if err := os.Rename(filepath.Join(w.dir, catalogFile), lost); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n, err := Open(t.Context(), Options{Dir: w.dir, Logger: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), "restore") {
			t.Fatalf("open with another catalog: %v, %v", n, err)
		}
	}
	if err := os.Rename(lost, filepath.Join(w.dir, catalogFile)); err != nil {
		t.Fatal(err)
	}
	// The checksum of the file that was replaced goes with it.
	if n, err := Open(t.Context(), Options{Dir: w.dir, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), catalogFile+".sum") {
		t.Fatalf("open with a catalog that was replaced: %v, %v", n, err)
	}
	if err := os.Remove(filepath.Join(w.dir, catalogFile+".sum")); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.whole()
	w.archived()
}

// When the hot log is lost, or an older copy is put in its place, what was
// archived is not lost, and nothing is appended over the offsets of rows that
// readers have seen, until the stream is reset; what was left is then archived.
func TestLostLogIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		archived, older bool
		left            int64 // rows of the old view in the history afterwards
	}{
		"never archived":                    {},
		"archived":                          {archived: true, left: 20},
		"an older copy, never archived":     {older: true, left: 10},
		"an older copy, archived behind it": {archived: true, older: true, left: 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldWith(t, catalog.Settings{Partitions: 2, KeyFields: []string{"k"}}, Options{})
			log, saved := filepath.Join(w.dir, logDir), filepath.Join(t.TempDir(), "log")
			w.publish(10)
			w.stop()
			if err := os.CopyFS(saved, os.DirFS(log)); err != nil {
				t.Fatal(err)
			}
			w.open()
			w.publish(10)
			if c.archived {
				w.archive()
			}
			w.publish(5)
			if _, err := w.node.checks.Take(t.Context(), w.view()); err != nil {
				t.Fatal(err)
			}
			w.stop()
			if err := os.RemoveAll(log); err != nil {
				t.Fatal(err)
			}
			if c.older {
				if err := os.Rename(saved, log); err != nil {
					t.Fatal(err)
				}
			}
			w.open()
			_, err := w.node.writer.Publish(t.Context(), writer.Request{Stream: "s", Branch: "main", Format: writer.JSON, Body: []byte(`{"k":"a","n":9}`)})
			if !errors.Is(err, record.ErrCorrupt) || !strings.Contains(err.Error(), "reset the stream") {
				t.Fatalf("a publish: %v", err)
			}
			if _, err := w.b.Reader.Read(t.Context(), "s", "main", reader.Request{}); !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("a read: %v", err)
			}
			if err := w.tryArchive(); !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("an archive: %v", err)
			}
			w.reset()
			w.publish(7)
			w.archived()
			if got := w.mostRows(1); got != c.left {
				t.Errorf("the history holds %d rows of the old view, want %d", got, c.left)
			}
			w.consistent()
			w.publish(1)
			w.archived()
		})
	}
}

// A second process on the same directory is refused, and told why; so is a
// second node in this one.
func TestOneProcessPerDirectory(t *testing.T) {
	if dir := os.Getenv("NODE_TEST_DIR"); dir != "" {
		_, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			t.Fatal("it was opened")
		}
		t.Fatalf("refused: busy %v: %v", errors.Is(err, record.ErrBusy), err)
	}
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{}, Options{})
	w.publish(1)
	if _, err := Open(t.Context(), Options{Dir: w.dir, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, record.ErrBusy) {
		t.Errorf("in this process: %v", err)
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOneProcessPerDirectory$")
	c.Env = append(os.Environ(), "NODE_TEST_DIR="+w.dir)
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "refused: busy true") || !strings.Contains(string(out), "another process has it open") || !strings.Contains(string(out), w.dir) {
		t.Errorf("in another process: %v\n%s", err, out)
	}
	w.publish(1)
	w.whole()
	w.stop()
	w.open()
	w.whole()
}

// An Open that fails, wherever, releases everything: the next one works.
func TestFailedOpenReleasesEverything(t *testing.T) {
	t.Parallel()
	w := newWorldWith(t, catalog.Settings{Partitions: 2}, Options{})
	w.publish(10)
	w.archive()
	w.publish(3)
	w.reset()
	w.stop()
	f := &faults{}
	failures := 0
	for at := 1; ; at++ {
		f.arm(at, at%2 == 0, "")
		n, err := Open(t.Context(), Options{Dir: w.dir, Logger: slog.New(slog.DiscardHandler), seams: f.seams()})
		if f.disarm() == "" {
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err == nil {
			err = n.Close()
			if err == nil {
				err = n.Close() // twice is no harm
			}
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		failures++
		if n != nil || !errors.Is(err, errInjected) || !strings.Contains(err.Error(), w.dir) {
			t.Fatalf("%v, %v", n, err)
		}
	}
	if failures < 2 {
		t.Errorf("only %d failures", failures)
	}
	for _, name := range []string{catalogFile, warehouseDir, logDir} {
		path := filepath.Join(w.dir, name)
		saved := filepath.Join(t.TempDir(), "saved")
		if err := errors.Join(os.Rename(path, saved), os.WriteFile(path, []byte("not what it should be"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if n, err := Open(t.Context(), Options{Dir: w.dir, Logger: slog.New(slog.DiscardHandler)}); err == nil || n != nil {
			t.Fatalf("opened with a bad %s", name)
		}
		if err := errors.Join(os.Remove(path), os.Rename(saved, path)); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	w.next = 0
	w.publish(2)
	w.archived()
	if _, err := Open(t.Context(), Options{Dir: filepath.Join(w.dir, catalogFile)}); err == nil || errors.Is(err, record.ErrBusy) {
		t.Errorf("a file as directory: %v", err)
	}
}

// BenchmarkOpen opens a directory with 2,000 streams.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	open := func() *Node {
		n, err := Open(b.Context(), Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	n := open()
	s, err := schema.Parse([]byte(worldSchema))
	if err != nil {
		b.Fatal(err)
	}
	for i := range 2000 {
		st, err := n.directory.Create(b.Context(), fmt.Sprintf("s%d", i), s, catalog.Settings{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := n.writer.Publish(b.Context(), writer.Request{Stream: st.Name(), Branch: "main", Format: writer.JSON, Body: []byte(`{"k":"a","n":1}`)}); err != nil {
			b.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := open().Close(); err != nil {
			b.Fatal(err)
		}
	}
}
