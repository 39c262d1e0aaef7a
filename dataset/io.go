package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	iceio "github.com/apache/iceberg-go/io"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// IO shows a store to iceberg-go, for what we leave to it. It is made for the
// calls under one ctx and ends with it.
func IO(ctx context.Context, s objstore.Store) iceio.WriteFileIO { return storeIO{ctx, s} }

// storeIO holds ctx because iceberg-go's interface has none; it lives no
// longer than the call that it is made for.
type storeIO struct {
	ctx   context.Context //nolint:containedctx // see above
	store objstore.Store
}

// Open implements iceio.IO.
func (s storeIO) Open(name string) (iceio.File, error) {
	key, err := objstore.Key(s.store, name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	info, err := s.store.Stat(s.ctx, key)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	o, err := s.store.Open(s.ctx, key)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &ioFile{SectionReader: io.NewSectionReader(o, 0, o.Size()), object: o, info: info}, nil
}

// Remove implements iceio.IO.
func (s storeIO) Remove(name string) error {
	key, err := objstore.Key(s.store, name)
	if err != nil {
		return pathError("remove", name, err)
	}
	if err := s.store.Delete(s.ctx, key); err != nil {
		return pathError("remove", name, err)
	}
	return nil
}

// Create implements iceio.WriteFileIO. The object exists after Close.
func (s storeIO) Create(name string) (iceio.FileWriter, error) {
	key, err := objstore.Key(s.store, name)
	if err != nil {
		return nil, pathError("create", name, err)
	}
	w, err := s.store.Create(s.ctx, key)
	if err != nil {
		return nil, pathError("create", name, err)
	}
	return &ioWriter{w: w, name: name}, nil
}

// WriteFile implements iceio.WriteFileIO.
func (s storeIO) WriteFile(name string, p []byte) error {
	w, err := s.Create(name)
	if err != nil {
		return err
	}
	if _, err := w.ReadFrom(bytes.NewReader(p)); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

func pathError(op, name string, err error) error {
	if errors.Is(err, record.ErrNotFound) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// ioFile is an open object.
type ioFile struct {
	*io.SectionReader
	object objstore.Object
	info   objstore.Info
}

func (f *ioFile) Close() error               { return f.object.Close() }
func (f *ioFile) Stat() (fs.FileInfo, error) { return ioInfo{f.info}, nil }

type ioInfo struct{ objstore.Info }

func (i ioInfo) Name() string       { return path.Base(i.Key) }
func (i ioInfo) Size() int64        { return i.Info.Size }
func (i ioInfo) Mode() fs.FileMode  { return 0o444 }
func (i ioInfo) ModTime() time.Time { return i.Modified }
func (i ioInfo) IsDir() bool        { return false }
func (i ioInfo) Sys() any           { return nil }

// ioWriter publishes the object at Close, unless a write failed.
type ioWriter struct {
	w      objstore.Writer
	name   string
	failed error
}

func (w *ioWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		w.failed = err
	}
	return n, err
}

func (w *ioWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(struct{ io.Writer }{w}, r)
	if err != nil {
		w.failed = err
	}
	return n, err
}

func (w *ioWriter) Close() error {
	defer w.w.Abort()
	if w.failed != nil {
		return pathError("close", w.name, w.failed)
	}
	if err := w.w.Commit(); err != nil {
		return pathError("close", w.name, err)
	}
	return nil
}
