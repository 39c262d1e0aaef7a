package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// Open implements objstore.Store.
func (s *Store) Open(ctx context.Context, key string) (objstore.Object, error) {
	timed, cancel, err := s.call(ctx, "open", key)
	if err != nil {
		return nil, err
	}
	defer cancel()
	info, err := s.stat(timed, key)
	if err != nil {
		return nil, err
	}
	return &object{s: s, ctx: ctx, key: key, size: info.Size, etag: info.ETag}, nil
}

type object struct {
	s    *Store
	ctx  context.Context //nolint:containedctx // io.ReaderAt has none
	key  string
	size int64
	etag string
}

func (o *object) Size() int64  { return o.size }
func (o *object) Close() error { return nil }

// broken is how often an answer may break off before the read is given up.
const broken = 5

// ReadAt gets a range. All ranges are of the version that Open saw.
func (o *object) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("objstore: read %s at %d: %w", o.key, off, record.ErrInvalid)
	}
	if off >= o.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), o.size-off)]
	n := 0
	for tries := 0; n < len(want); {
		k, err := o.get(want[n:], off+int64(n))
		n += k
		if err == nil {
			break
		}
		if k > 0 {
			tries = 0
		}
		if tries++; tries >= broken || !errors.Is(err, io.ErrUnexpectedEOF) || o.ctx.Err() != nil {
			return n, err
		}
		select {
		case <-o.ctx.Done():
		case <-time.After(time.Duration(tries) * 100 * time.Millisecond):
		}
	}
	if len(want) < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// get is one request; io.ErrUnexpectedEOF when the answer broke off, behind what
// was read.
func (o *object) get(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(o.ctx, o.s.timeout)
	defer cancel()
	var q minio.GetObjectOptions
	if err := errors.Join(q.SetRange(off, off+int64(len(p))-1), q.SetMatchETag(o.etag)); err != nil {
		return 0, fmt.Errorf("objstore: read %s: %w", o.key, err)
	}
	body, info, _, err := o.s.core.GetObject(ctx, o.s.bucket, o.s.prefix+o.key, q)
	if err != nil {
		err = o.s.fail("read", o.key, err)
		if errors.Is(err, record.ErrExists) { // If-Match
			err = fmt.Errorf("objstore: read %s: it was replaced by another object while it was open: %w", o.key, record.ErrCorrupt)
		}
		return 0, err
	}
	defer body.Close()
	if info.Size != int64(len(p)) {
		return 0, fmt.Errorf("objstore: read %s at %d: asked for %d bytes, the server sends %d: %w", o.key, off, len(p), info.Size, record.ErrCorrupt)
	}
	n, err := io.ReadFull(body, p)
	if err != nil && o.ctx.Err() == nil {
		return n, fmt.Errorf("objstore: read %s at %d: %w: %w", o.key, off+int64(n), err, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return n, fmt.Errorf("objstore: read %s: %w", o.key, o.ctx.Err())
	}
	return n, nil
}
