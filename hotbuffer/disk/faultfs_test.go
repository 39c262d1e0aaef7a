package disk

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// faultFS adds to errorfs what that does not have: writes that are cut short
// before they fail, and a call behind each sync.
type faultFS struct {
	vfs.FS
	// short tells whether a write is to be cut; nil: none.
	short func(path string) error
	// synced is called behind each sync that succeeded; nil: nobody.
	synced func(path string)
}

func (f *faultFS) wrap(path string, file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f, path: path}, nil
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return f.wrap(name, file, err)
}

func (f *faultFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, o...)
	return f.wrap(name, file, err)
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	return f.wrap(name, file, err)
}

type faultFile struct {
	vfs.File
	fs   *faultFS
	path string
}

func (f *faultFile) cut(b []byte, write func([]byte) (int, error)) (int, error) {
	if f.fs.short != nil {
		if failed := f.fs.short(f.path); failed != nil {
			n, err := write(b[:len(b)/2])
			if err != nil {
				return n, err
			}
			return n, failed
		}
	}
	return write(b)
}

func (f *faultFile) Write(b []byte) (int, error) { return f.cut(b, f.File.Write) }

func (f *faultFile) WriteAt(b []byte, off int64) (int, error) {
	return f.cut(b, func(b []byte) (int, error) { return f.File.WriteAt(b, off) })
}

func (f *faultFile) sync(err error) error {
	if err == nil && f.fs.synced != nil {
		f.fs.synced(f.path)
	}
	return err
}

func (f *faultFile) Sync() error     { return f.sync(f.File.Sync()) }
func (f *faultFile) SyncData() error { return f.sync(f.File.SyncData()) }

// quotaFS is a disk of limited size: growing a file beyond it writes what fits
// and fails with ENOSPC; removing files makes room.
type quotaFS struct {
	vfs.FS
	mu    sync.Mutex
	limit int64
	sizes map[string]int64
	// honest: Preallocate fails at once when there is no room.
	honest bool
	full   int // times that there was no room
}

// setLimit changes the size of the disk; -1: there is room for everything.
func (q *quotaFS) setLimit(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = n
}

// grow makes a file at least as long as end, or as far as there is room.
func (q *quotaFS) grow(name string, end int64) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if end <= q.sizes[name] {
		return end, nil
	}
	if q.limit >= 0 {
		room := q.limit
		for _, n := range q.sizes {
			room -= n
		}
		if reach := q.sizes[name] + max(0, room); reach < end {
			q.sizes[name] = reach
			q.full++
			return reach, syscall.ENOSPC
		}
	}
	q.sizes[name] = end
	return end, nil
}

func (q *quotaFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := q.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	q.sizes[name] = 0
	q.mu.Unlock()
	return &quotaFile{File: file, q: q, name: name}, nil
}

func (q *quotaFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	file, err := q.FS.OpenReadWrite(name, c, o...)
	if err != nil {
		return nil, err
	}
	return &quotaFile{File: file, q: q, name: name}, nil
}

func (q *quotaFS) Remove(name string) error {
	err := q.FS.Remove(name)
	if err == nil {
		q.mu.Lock()
		delete(q.sizes, name)
		q.mu.Unlock()
	}
	return err
}

func (q *quotaFS) Rename(from, to string) error {
	err := q.FS.Rename(from, to)
	if err == nil {
		q.mu.Lock()
		q.sizes[to] = q.sizes[from]
		delete(q.sizes, from)
		q.mu.Unlock()
	}
	return err
}

// quotaFile follows its file's name only as far as the log goes: it grows
// files under their first name.
type quotaFile struct {
	vfs.File
	q    *quotaFS
	name string
	pos  int64
}

func (f *quotaFile) Preallocate(off, n int64) error {
	if !f.q.honest {
		return f.File.Preallocate(off, n)
	}
	f.q.mu.Lock()
	before := f.q.sizes[f.name]
	f.q.mu.Unlock()
	if _, err := f.q.grow(f.name, off+n); err != nil {
		f.q.mu.Lock()
		f.q.sizes[f.name] = before
		f.q.mu.Unlock()
		return err
	}
	return nil
}

func (f *quotaFile) Write(b []byte) (int, error) {
	end, failed := f.q.grow(f.name, f.pos+int64(len(b)))
	n, err := f.File.Write(b[:max(0, end-f.pos)])
	f.pos += int64(n)
	if err == nil {
		err = failed
	}
	return n, err
}

func (f *quotaFile) WriteAt(b []byte, off int64) (int, error) {
	info, err := f.File.Stat()
	if err != nil {
		return 0, err
	}
	if end := off + int64(len(b)); end > info.Size() {
		return 0, fmt.Errorf("write behind the end of %s: %d of %d", f.name, end, info.Size())
	}
	return f.File.WriteAt(b, off)
}

// tearSectors returns what a crash may leave where the disk writes sectors of
// that size: of everything that was not synced, a random part is there.
func tearSectors(t testing.TB, mem *vfs.MemFS, sector int, rng *rand.Rand) *vfs.MemFS {
	synced := mem.CrashClone(vfs.CrashCloneCfg{})
	written := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
	left := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
	names, err := left.List("/log")
	if err != nil {
		return left // the directory is not there yet
	}
	for _, name := range names {
		was, err := synced.UnsafeGetFileDataBuffer("/log/" + name)
		if err != nil {
			continue
		}
		is, err := written.UnsafeGetFileDataBuffer("/log/" + name)
		if err != nil || len(is) != len(was) {
			continue
		}
		for pos := 0; pos < len(is); pos += sector {
			end := min(pos+sector, len(is))
			if string(is[pos:end]) == string(was[pos:end]) {
				continue
			}
			b := was[pos:end]
			if rng.IntN(2) == 0 {
				b = is[pos:end]
			}
			write(t, left, name, pos, b)
		}
	}
	return left
}

// changes tells operations that change what is on disk from others.
func changes(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpRemove, errorfs.OpRename, errorfs.OpMkdirAll, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData:
		return true
	default:
		return false
	}
}
