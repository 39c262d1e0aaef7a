// Package objstore keeps immutable objects under keys: the data files,
// manifests and metadata files of datasets. An object appears whole and durable
// or not at all, and is never overwritten.
//
// It knows no format and no table. Who may delete what is decided above it.
package objstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Store holds objects. All methods are safe for concurrent use.
type Store interface {
	// Create begins an object. Nothing is visible under key before Commit of
	// the writer returned.
	Create(ctx context.Context, key string) (Writer, error)

	// Open opens an object for ranged reads. ctx also ends the reads.
	// ErrNotFound if there is none.
	Open(ctx context.Context, key string) (Object, error)

	// Stat tells size and age. ErrNotFound if there is none.
	Stat(ctx context.Context, key string) (Info, error)

	// List yields the objects whose key begins with prefix, in the order of
	// their keys. Objects that come or go meanwhile may or may not be listed.
	// After an error it ends.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object for good: it does not come back with a power
	// loss. One that does not exist is no error.
	Delete(ctx context.Context, key string) error

	// Base is what comes before the key in an object's URI; it ends in "/".
	Base() string
}

// Writer takes the bytes of one object. It is not safe for concurrent use.
type Writer interface {
	io.Writer
	// Commit makes the object visible and durable: when it returns nil, the
	// whole object survives a power loss. ErrExists if the key is taken,
	// ErrFull if there is no room; after these the object does not exist.
	// After any other error its existence is unknown.
	Commit() error
	// Abort drops what was written. After Commit it does nothing.
	Abort()
}

// Object is an open, immutable object. ReadAt is safe for concurrent use.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Info describes an object.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time
}

// maxKey bounds a key in bytes; S3 allows 1024.
const maxKey = 512

// CheckKey refuses keys that could leave the store or that some store could
// not hold: a key is one or more segments of letters, digits, '-', '_', '.',
// joined by '/', none of which begins with a dot. ErrInvalid.
func CheckKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("objstore: key of %d bytes; 1 to %d are allowed: %w", len(key), maxKey, record.ErrInvalid)
	}
	start := true
	for i := range len(key) {
		c := key[i]
		switch {
		case c == '/' && !start:
			start = true
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && !start:
			start = false
		default:
			return fmt.Errorf("objstore: key %q has %q at byte %d; segments are letters, digits, '-', '_' and inner '.': %w", key, c, i, record.ErrInvalid)
		}
	}
	if start {
		return fmt.Errorf("objstore: key %q ends in '/': %w", key, record.ErrInvalid)
	}
	return nil
}

// URI is the address of key as it stands in table metadata.
func URI(s Store, key string) string { return s.Base() + key }

// Key is the reverse of URI. A URI outside the store is ErrInvalid.
func Key(s Store, uri string) (string, error) {
	key, ok := strings.CutPrefix(uri, s.Base())
	if !ok {
		// file:/abs/path is the other common spelling of file:///abs/path.
		if rest, is := strings.CutPrefix(uri, "file:/"); is && !strings.HasPrefix(rest, "/") {
			key, ok = strings.CutPrefix("file:///"+rest, s.Base())
		}
	}
	if !ok {
		return "", fmt.Errorf("objstore: %q lies outside the store at %s: %w", uri, s.Base(), record.ErrInvalid)
	}
	return key, CheckKey(key)
}

// Put creates an object from its bytes; see Writer.Commit for the errors.
func Put(ctx context.Context, s Store, key string, data []byte) error {
	w, err := s.Create(ctx, key)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
		return err
	}
	return w.Commit()
}

// Get reads a whole object of at most limit bytes; ErrTooLarge above it.
func Get(ctx context.Context, s Store, key string, limit int64) ([]byte, error) {
	o, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if o.Size() > limit {
		return nil, fmt.Errorf("objstore: %s has %d bytes, at most %d are read: %w", key, o.Size(), limit, record.ErrTooLarge)
	}
	b := make([]byte, o.Size())
	if n, err := o.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("objstore: read %s: %d of %d bytes: %w", key, n, len(b), err)
	}
	return b, nil
}
