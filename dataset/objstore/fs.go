package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
)

// tmpDir holds objects that are being written. No key can name it, because
// no segment of a key begins with a dot.
const tmpDir = ".tmp"

// staleAfter is the age at which an unfinished object is certainly nobody's:
// its writer crashed.
const staleAfter = 24 * time.Hour

// writeBuffer joins the small writes of encoders.
const writeBuffer = 256 << 10

// FS is a Store in a directory of a local file system.
type FS struct {
	fs   vfs.FS
	root string

	mu   sync.Mutex
	dirs map[string]bool // directories known to exist durably
}

// NewFS opens, and creates if need be, the store in dir. What crashed writers
// left behind is removed after a day.
func NewFS(dir string) (*FS, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("objstore: directory %q: %w", dir, err)
	}
	s, err := NewFSOn(vfs.Default, abs)
	if err != nil {
		return nil, err
	}
	// URIs must come out the same however the directory is reached. (Only what
	// exists can be resolved.)
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, fmt.Errorf("objstore: directory %q: %w", dir, err)
	}
	if real == s.root {
		return s, nil
	}
	return NewFSOn(vfs.Default, real)
}

// NewFSOn is NewFS on another file system, where tests can crash it. dir is
// absolute.
func NewFSOn(on vfs.FS, dir string) (*FS, error) {
	// Readers take the URI apart without decoding it: these would end the path.
	if strings.ContainsAny(dir, "#?%\n") || !strings.HasPrefix(dir, "/") {
		return nil, fmt.Errorf("objstore: directory %q: the path must be absolute and without '#', '?' and '%%', because it becomes part of URIs: %w", dir, record.ErrInvalid)
	}
	s := &FS{fs: on, root: filepath.Clean(dir), dirs: map[string]bool{}}
	if err := s.mkdir(s.fs.PathJoin(s.root, tmpDir)); err != nil {
		return nil, fmt.Errorf("objstore: create %s: %w", s.root, err)
	}
	return s, s.removeStale()
}

// removeStale drops unfinished objects of writers that crashed long ago.
func (s *FS) removeStale() error {
	dir := s.fs.PathJoin(s.root, tmpDir)
	names, err := s.fs.List(dir)
	if err != nil {
		return fmt.Errorf("objstore: list %s: %w", dir, err)
	}
	for _, name := range names {
		path := s.fs.PathJoin(dir, name)
		if st, err := s.fs.Stat(path); err == nil && time.Since(st.ModTime()) > staleAfter {
			// Gone already, or still there at the next start.
			_ = s.fs.Remove(path)
		}
	}
	return nil
}

// Base is the file URI of the directory.
func (s *FS) Base() string {
	if s.root == "/" {
		return "file:///"
	}
	return "file://" + s.root + "/"
}

func (s *FS) path(key string) string { return s.fs.PathJoin(s.root, key) }

// mkdir makes dir and its parents, durably: a new directory survives a power
// loss only after its parent was synced.
func (s *FS) mkdir(dir string) error {
	s.mu.Lock()
	known := s.dirs[dir]
	s.mu.Unlock()
	if known {
		return nil
	}
	parent := s.fs.PathDir(dir)
	if parent != dir {
		if err := s.mkdir(parent); err != nil {
			return err
		}
		if _, err := s.fs.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			if err := s.fs.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := s.syncDir(parent); err != nil {
				return err
			}
		} else if err != nil {
			return err
		} else if strings.HasPrefix(dir, s.root+"/") {
			// Below the root it may be of a process that crashed, or that is
			// just about to sync it.
			if err := s.syncDir(parent); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	s.dirs[dir] = true
	s.mu.Unlock()
	return nil
}

func (s *FS) syncDir(dir string) error {
	d, err := s.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Create implements Store.
func (s *FS) Create(ctx context.Context, key string) (Writer, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("objstore: create %s: %w", key, err)
	}
	tmp := s.fs.PathJoin(s.root, tmpDir, uuid.NewString())
	f, err := s.fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, ioError("create", key, err)
	}
	return &fsWriter{s: s, key: key, tmp: tmp, f: f}, nil
}

type fsWriter struct {
	s    *FS
	key  string
	tmp  string
	f    vfs.File
	buf  []byte
	err  error // of an earlier write: the object lacks its bytes
	done bool
}

// Write always copies: a vfs.File may change the bytes that it is given.
func (w *fsWriter) Write(p []byte) (int, error) {
	if w.done {
		return 0, fmt.Errorf("objstore: write %s: the writer is finished: %w", w.key, record.ErrClosed)
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, writeBuffer)
	}
	n := 0
	for n < len(p) {
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
		k := min(len(p)-n, cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[n:n+k]...)
		n += k
	}
	return n, nil
}

func (w *fsWriter) flush() error {
	if w.err == nil && len(w.buf) > 0 {
		if _, err := w.f.Write(w.buf); err != nil {
			w.err = ioError("write", w.key, err)
		}
		w.buf = w.buf[:0]
	}
	return w.err
}

func (w *fsWriter) Commit() error {
	if w.done {
		return fmt.Errorf("objstore: commit %s: the writer is finished: %w", w.key, record.ErrClosed)
	}
	defer w.Abort()
	if err := w.flush(); err != nil {
		return err
	}
	// A crash up to here leaves a file in .tmp, removed by a later NewFS.
	if err := w.f.Sync(); err != nil {
		return ioError("sync", w.key, err)
	}
	path := w.s.path(w.key)
	dir := w.s.fs.PathDir(path)
	if err := w.s.mkdir(dir); err != nil {
		return ioError("make the directory of", w.key, err)
	}
	// A link, unlike a rename, fails when the name is taken. A crash behind it
	// leaves a second name in .tmp for the same whole, synced file, and the
	// object either visible or not; nobody was told yet that it exists.
	if err := w.s.fs.Link(w.tmp, path); err != nil {
		return ioError("publish", w.key, err)
	}
	if err := w.s.syncDir(dir); err != nil {
		return ioError("sync the directory of", w.key, err)
	}
	return nil
}

func (w *fsWriter) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.f.Close()
	// Should this fail, removeStale repeats it.
	_ = w.s.fs.Remove(w.tmp)
}

// Open implements Store.
func (s *FS) Open(ctx context.Context, key string) (Object, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("objstore: open %s: %w", key, err)
	}
	f, err := s.fs.Open(s.path(key))
	if err != nil {
		return nil, ioError("open", key, err)
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, ioError("open", key, err)
	}
	return &fsObject{File: f, key: key, size: st.Size()}, nil
}

type fsObject struct {
	vfs.File
	key  string
	size int64
}

func (o *fsObject) Size() int64 { return o.size }

func (o *fsObject) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.File.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = ioError("read", o.key, err)
	}
	return n, err
}

// Stat implements Store.
func (s *FS) Stat(ctx context.Context, key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return Info{}, fmt.Errorf("objstore: stat %s: %w", key, err)
	}
	st, err := s.fs.Stat(s.path(key))
	if err == nil && st.IsDir() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Info{}, ioError("stat", key, err)
	}
	return Info{Key: key, Size: st.Size(), Modified: st.ModTime()}, nil
}

// Delete implements Store.
func (s *FS) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("objstore: delete %s: %w", key, err)
	}
	path := s.path(key)
	if err := s.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioError("delete", key, err)
	}
	// Also where there was none: an earlier call may have stopped before this.
	if err := s.syncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ioError("sync the directory of", key, err)
	}
	return nil
}

// List implements Store.
func (s *FS) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		dir := ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i]
			if err := CheckKey(dir); err != nil {
				yield(Info{}, err)
				return
			}
		}
		s.walk(ctx, dir, prefix, yield)
	}
}

// walk yields the objects below dir ("" is the root); false ends the listing.
func (s *FS) walk(ctx context.Context, dir, prefix string, yield func(Info, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield(Info{}, fmt.Errorf("objstore: list %s: %w", prefix, err))
		return false
	}
	names, err := s.fs.List(s.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		yield(Info{}, ioError("list", dir, err))
		return false
	}
	entries := make([]walkEntry, 0, len(names))
	for _, name := range names {
		key := name
		if dir != "" {
			key = dir + "/" + name
		}
		if CheckKey(key) != nil || !(strings.HasPrefix(key, prefix) || strings.HasPrefix(prefix, key+"/")) {
			continue
		}
		st, err := s.fs.Stat(s.path(key))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			yield(Info{}, ioError("list", key, err))
			return false
		}
		e := walkEntry{Info: Info{Key: key, Size: st.Size(), Modified: st.ModTime()}, dir: st.IsDir()}
		e.sort = key
		if e.dir {
			e.sort += "/" // the keys below a directory sort as if it ended so
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b walkEntry) int { return strings.Compare(a.sort, b.sort) })
	for _, e := range entries {
		if e.dir {
			if !s.walk(ctx, e.Key, prefix, yield) {
				return false
			}
		} else if !yield(e.Info, nil) {
			return false
		}
	}
	return true
}

type walkEntry struct {
	Info
	dir  bool
	sort string
}

// ioError names operation and key, and maps the conditions that callers tell
// apart.
func ioError(op, key string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("objstore: %s %s: %w", op, key, record.ErrNotFound)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("objstore: %s %s: %w", op, key, record.ErrExists)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("objstore: %s %s: %w (%w); free some space", op, key, record.ErrFull, err)
	}
	return fmt.Errorf("objstore: %s %s: %w", op, key, err)
}
