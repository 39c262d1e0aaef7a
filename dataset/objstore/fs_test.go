package objstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/dataset/objstore/objstoretest"
	"github.com/thermocline/thermocline/record"
)

func TestFS(t *testing.T) {
	t.Parallel()
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		s, err := objstore.NewFS(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestFSInMemory(t *testing.T) {
	t.Parallel()
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		s, err := objstore.NewFSOn(vfs.NewMem(), "/store")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestFSURIIsAPlainPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "with space")
	s, err := objstore.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := objstore.Put(t.Context(), s, "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(objstore.URI(s, "a/b"), "file://")
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("read %s: %q, %v", path, b, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(dir, ".."), link); err != nil {
		t.Fatal(err)
	}
	for range 2 { // before and after the directory exists
		l, err := objstore.NewFS(filepath.Join(link, "new"))
		if err != nil {
			t.Fatal(err)
		}
		if want := "file://" + filepath.Dir(dir) + "/new/"; l.Base() != want {
			t.Errorf("base %s by a link, want %s", l.Base(), want)
		}
	}
	for _, bad := range []string{"/a#b", "/a?b", "/a%20b"} {
		if _, err := objstore.NewFSOn(vfs.NewMem(), bad); !errors.Is(err, record.ErrInvalid) {
			t.Errorf("directory %s: %v", bad, err)
		}
	}
}

// failAt fails the operation with the given number with err, and calls
// atFailure at that moment.
type failAt struct {
	n, at int
	err   error
}

func (f *failAt) String() string { return fmt.Sprintf("fail at %d", f.at) }

func (f *failAt) MaybeError(errorfs.Op) error {
	f.n++
	if f.n == f.at {
		return f.err
	}
	return nil
}

// TestFSErrorsAndCrashes fails each file operation of a Put in turn, and cuts
// the power right after: the object is whole or absent, a Put that reported
// success is there, and earlier objects never change.
func TestFSErrorsAndCrashes(t *testing.T) {
	t.Parallel()
	old, data := []byte("an older object"), bytes.Repeat([]byte("0123456789"), 60_000)
	for _, percent := range []int{0, 50, 100} {
		for at := 1; ; at++ {
			mem := vfs.NewCrashableMem()
			inject := &failAt{at: 0, err: syscall.EIO}
			s, err := objstore.NewFSOn(errorfs.Wrap(mem, inject), "/store")
			if err != nil {
				t.Fatal(err)
			}
			if err := objstore.Put(t.Context(), s, "old/1", old); err != nil {
				t.Fatal(err)
			}
			inject.n, inject.at = 0, at
			putErr := objstore.Put(t.Context(), s, "new/dir/1", data)

			rng := rand.New(rand.NewPCG(uint64(at), uint64(percent)))
			after, err := objstore.NewFSOn(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}), "/store")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := objstore.Get(t.Context(), after, "old/1", 1<<20); err != nil || !bytes.Equal(b, old) {
				t.Fatalf("operation %d: the older object is %q, %v", at, b, err)
			}
			b, err := objstore.Get(t.Context(), after, "new/dir/1", 1<<20)
			switch {
			case putErr == nil && err != nil:
				t.Fatalf("operation %d: the object was acknowledged and is gone: %v", at, err)
			case err == nil && !bytes.Equal(b, data):
				t.Fatalf("operation %d: %d of %d bytes are visible", at, len(b), len(data))
			case err != nil && !errors.Is(err, record.ErrNotFound):
				t.Fatalf("operation %d: %v", at, err)
			}
			if putErr == nil && inject.n < at {
				if at < 8 {
					t.Fatalf("only %d operations were failed; the sweep misses steps", at-1)
				}
				t.Logf("sweep: %s, %d%% of what was not synced: %d file operations failed, and a crash behind each", t.Name(), percent, at-1)
				break // swept past the last operation
			}
		}
	}
}

// A deletion that was told is one that a power loss does not undo.
func TestFSDeletesForGood(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	s, err := objstore.NewFSOn(mem, "/store")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a/b/1", "a/b/2"} {
		if err := objstore.Put(t.Context(), s, key, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "a/b/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "no/such/directory"); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	after, err := objstore.NewFSOn(mem.CrashClone(vfs.CrashCloneCfg{}), "/store")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.Stat(t.Context(), "a/b/1"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("behind a crash the deleted object is there: %v", err)
	}
	if _, err := after.Stat(t.Context(), "a/b/2"); err != nil {
		t.Errorf("and the other one: %v", err)
	}
}

func TestFSFullDisk(t *testing.T) {
	t.Parallel()
	inject := &failAt{err: syscall.ENOSPC}
	s, err := objstore.NewFSOn(errorfs.Wrap(vfs.NewMem(), inject), "/store")
	if err != nil {
		t.Fatal(err)
	}
	inject.n, inject.at = 0, 2 // 1 creates, 2 writes
	if err := objstore.Put(t.Context(), s, "x", []byte("y")); !errors.Is(err, record.ErrFull) {
		t.Errorf("put on a full disk: %v", err)
	}
	if err := objstore.Put(t.Context(), s, "x", []byte("y")); err != nil {
		t.Errorf("put after room was made: %v", err)
	}
}

func TestFSRemovesStaleTemporaries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := objstore.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	young, err := s.Create(t.Context(), "young")
	if err != nil {
		t.Fatal(err)
	}
	defer young.Abort()
	stale := filepath.Join(dir, ".tmp", "stale")
	if err := os.WriteFile(stale, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := objstore.NewFS(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale temporary is still there: %v", err)
	}
	if err := young.Commit(); err != nil {
		t.Errorf("a writer under way lost its temporary: %v", err)
	}
}

func BenchmarkPut(b *testing.B) {
	s, err := objstore.NewFS(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 64<<10)
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		if err := objstore.Put(b.Context(), s, fmt.Sprintf("bench/%d", i), data); err != nil {
			b.Fatal(err)
		}
	}
}
