package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/minio/minio-go/v7"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// writeID is the metadata that tells our object from another writer's: when a
// call is repeated because its answer was lost, the server refuses it with "there
// is one already", and that one may be ours.
const writeID = "Thermocline-Write"

// Create implements objstore.Store. ctx also ends the writes. One part is held in
// memory; an object that is no larger is sent with a single call.
func (s *Store) Create(ctx context.Context, key string) (objstore.Writer, error) {
	_, cancel, err := s.call(ctx, "create", key)
	if err != nil {
		return nil, err
	}
	cancel()
	return &writer{s: s, ctx: ctx, key: key, id: uuid.NewString()}, nil
}

type writer struct {
	s      *Store
	ctx    context.Context //nolint:containedctx // io.Writer has none
	key    string
	id     string
	buf    []byte
	upload string // of an object in parts, once begun
	parts  []minio.CompletePart
	err    error // of an earlier part: the object lacks its bytes
	done   bool
}

// options of the object. The library's own hashing while it sends is off: the
// digest of what is in memory is in the call's header.
func (w *writer) options() minio.PutObjectOptions {
	return minio.PutObjectOptions{UserMetadata: map[string]string{writeID: w.id}, ContentType: "application/octet-stream", DisableContentSha256: true}
}

func (w *writer) Write(p []byte) (int, error) {
	if w.done {
		return 0, fmt.Errorf("objstore: write %s: the writer is finished: %w", w.key, record.ErrClosed)
	}
	n := 0
	for n < len(p) {
		if len(w.buf) == w.s.part {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
		k := min(len(p)-n, w.s.part-len(w.buf))
		w.buf = append(w.buf, p[n:n+k]...)
		n += k
	}
	return n, nil
}

// flush sends a part. The server compares the SHA-256 before it takes one.
func (w *writer) flush() error {
	if w.err == nil {
		w.err = w.sendPart()
	}
	w.buf = w.buf[:0]
	return w.err
}

func (w *writer) sendPart() error {
	ctx, cancel := context.WithTimeout(w.ctx, w.s.timeout)
	defer cancel()
	if w.upload == "" {
		id, err := w.s.core.NewMultipartUpload(ctx, w.s.bucket, w.s.prefix+w.key, w.options())
		if err != nil {
			return w.s.fail("begin", w.key, err)
		}
		w.upload = id
	}
	n := len(w.parts) + 1
	p, err := w.s.core.PutObjectPart(ctx, w.s.bucket, w.s.prefix+w.key, w.upload, n, bytes.NewReader(w.buf), int64(len(w.buf)),
		minio.PutObjectPartOptions{Sha256Hex: digest(w.buf), DisableContentSha256: true})
	if err != nil {
		return w.s.fail(fmt.Sprintf("write part %d of", n), w.key, err)
	}
	w.parts = append(w.parts, minio.CompletePart{PartNumber: n, ETag: p.ETag})
	return nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Commit: a crash before the last call leaves nothing, or an unfinished upload
// that a later Open gives up; behind it the object is whole and durable.
func (w *writer) Commit() error {
	if w.done {
		return fmt.Errorf("objstore: commit %s: the writer is finished: %w", w.key, record.ErrClosed)
	}
	defer w.Abort()
	if w.err == nil && w.upload != "" {
		_ = w.flush()
	}
	if w.err != nil {
		return w.err
	}
	ctx, cancel := context.WithTimeout(w.ctx, w.s.timeout)
	defer cancel()
	o := w.options()
	o.SetMatchETagExcept("*") // never overwrite
	var err error
	if w.upload == "" {
		_, err = w.s.core.PutObject(ctx, w.s.bucket, w.s.prefix+w.key, bytes.NewReader(w.buf), int64(len(w.buf)), "", digest(w.buf), o)
	} else {
		_, err = w.s.core.CompleteMultipartUpload(ctx, w.s.bucket, w.s.prefix+w.key, w.upload, w.parts, o)
	}
	if err == nil {
		w.upload = ""
		return nil
	}
	err = w.s.fail("commit", w.key, err)
	if !errors.Is(err, record.ErrExists) && !errors.Is(err, record.ErrNotFound) {
		return err // unknown
	}
	// Taken, or the upload is no more: by us, when the answer to an earlier try was lost.
	info, serr := w.s.stat(ctx, w.key)
	switch {
	case serr == nil && info.UserMetadata[writeID] == w.id:
		w.upload = ""
		return nil
	case serr == nil:
		return fmt.Errorf("objstore: commit %s: %w", w.key, record.ErrExists)
	case errors.Is(err, record.ErrNotFound):
		return fmt.Errorf("objstore: commit %s: the server has forgotten the upload; write the object again: %w", w.key, record.ErrConflict)
	}
	return errors.Join(err, serr)
}

func (w *writer) Abort() {
	if w.done {
		return
	}
	w.done, w.buf = true, nil
	if w.upload == "" {
		return
	}
	// Also when the caller's time is over: parts cost money. Should it fail, a
	// later Open repeats it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), w.s.timeout)
	defer cancel()
	_ = w.s.core.AbortMultipartUpload(ctx, w.s.bucket, w.s.prefix+w.key, w.upload)
}
