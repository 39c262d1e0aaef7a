// Package s3 is an objstore.Store in a bucket of any server that speaks the S3
// protocol and honours If-None-Match on writes (Amazon S3, Cloudflare R2, Ceph,
// versitygw and others).
//
// It knows no format and no table. Objects are written once and never changed,
// so nothing is cached and nothing can go stale.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
)

// Options say where the bucket is. It must exist.
type Options struct {
	// Endpoint is host or host:port. Insecure: http instead of https.
	Endpoint string
	Insecure bool
	Region   string // empty: asked of the server
	Bucket   string
	// Prefix is put before every key, without slashes at its ends; it may be empty.
	Prefix string
	// AccessKey and SecretKey; both empty: from the environment (AWS_ACCESS_KEY_ID, …),
	// the credentials file, or the machine's role, in this order.
	AccessKey, SecretKey, SessionToken string
	// PartBytes is the size of the parts in which larger objects are sent, and
	// the memory that a writer takes; 0: 16 MiB. S3 wants 5 MiB at least.
	PartBytes int
	// Timeout bounds each call, with its retries; 0: one minute.
	Timeout time.Duration

	transport http.RoundTripper // tests break it
}

// minPart is the smallest part that S3 takes, but for the last.
const minPart = 5 << 20

// retries of a call, with pauses that double from 200 ms to 1 s. Each call can be
// repeated: reads and deletes by nature, writes because an object that exists is
// recognised as our own.
const retries = 6

// Store is an objstore.Store. Safe for concurrent use.
type Store struct {
	core    *minio.Core
	bucket  string
	region  string // as given
	prefix  string // "" or "…/"
	part    int
	timeout time.Duration
}

var _ objstore.Store = (*Store)(nil)

// Open connects, looks whether the bucket is there, and gives up what crashed
// writers left unfinished a day ago.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Endpoint == "" || o.Bucket == "" {
		return nil, fmt.Errorf("objstore: S3 endpoint %q, bucket %q: both are needed: %w", o.Endpoint, o.Bucket, record.ErrInvalid)
	}
	if o.Prefix != "" {
		if err := objstore.CheckKey(o.Prefix); err != nil {
			return nil, fmt.Errorf("objstore: prefix in bucket %s: %w", o.Bucket, err)
		}
		o.Prefix += "/"
	}
	if o.PartBytes == 0 {
		o.PartBytes = 16 << 20
	}
	if o.PartBytes < minPart {
		return nil, fmt.Errorf("objstore: parts of %d bytes; S3 wants at least %d: %w", o.PartBytes, minPart, record.ErrInvalid)
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.transport == nil {
		o.transport = transport(o.Timeout)
	}
	core, err := minio.NewCore(o.Endpoint, &minio.Options{
		Creds: creds(o), Secure: !o.Insecure, Region: o.Region, Transport: o.transport, MaxRetries: retries,
		BucketLookup: minio.BucketLookupAuto,
	})
	if err != nil {
		return nil, fmt.Errorf("objstore: S3 at %s: %w: %w", o.Endpoint, err, record.ErrInvalid)
	}
	s := &Store{core: core, bucket: o.Bucket, region: o.Region, prefix: o.Prefix, part: o.PartBytes, timeout: o.Timeout}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	there, err := core.BucketExists(ctx, o.Bucket)
	if err != nil {
		return nil, s.fail("look for bucket", o.Bucket, err)
	}
	if !there {
		return nil, fmt.Errorf("objstore: bucket %s at %s: there is none; create it, or name another: %w", o.Bucket, o.Endpoint, record.ErrNotFound)
	}
	s.abortStale(ctx)
	return s, nil
}

func creds(o Options) *credentials.Credentials {
	if o.AccessKey != "" || o.SecretKey != "" {
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
}

// transport is one that gives a dead server up, also between retries.
func transport(timeout time.Duration) http.RoundTripper {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(timeout, 5*time.Second), KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   min(timeout, 10*time.Second),
		ResponseHeaderTimeout: min(timeout, 30*time.Second),
		DisableCompression:    true, // ranges are of the bytes as they are stored
	}
}

// staleAfter is the age at which an unfinished upload is certainly nobody's.
const staleAfter = 24 * time.Hour

// abortStale does what it can: a server may not let us list uploads, and what is
// left costs room, no more. A later Open repeats it.
func (s *Store) abortStale(ctx context.Context) {
	for u := range s.core.ListIncompleteUploads(ctx, s.bucket, s.prefix, true) {
		if u.Err == nil && time.Since(u.Initiated) > staleAfter {
			_ = s.core.AbortMultipartUpload(ctx, s.bucket, u.Key, u.UploadID)
		}
	}
}

// Base implements objstore.Store.
func (s *Store) Base() string { return "s3://" + s.bucket + "/" + s.prefix }

// call checks the key and bounds the time of an operation.
func (s *Store) call(ctx context.Context, op, key string) (context.Context, context.CancelFunc, error) {
	if err := objstore.CheckKey(key); err != nil {
		return nil, nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("objstore: %s %s: %w", op, key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	return ctx, cancel, nil
}

// Stat implements objstore.Store.
func (s *Store) Stat(ctx context.Context, key string) (objstore.Info, error) {
	ctx, cancel, err := s.call(ctx, "stat", key)
	if err != nil {
		return objstore.Info{}, err
	}
	defer cancel()
	info, err := s.stat(ctx, key)
	if err != nil {
		return objstore.Info{}, err
	}
	return objstore.Info{Key: key, Size: info.Size, Modified: info.LastModified}, nil
}

func (s *Store) stat(ctx context.Context, key string) (minio.ObjectInfo, error) {
	info, err := s.core.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return info, s.fail("stat", key, err)
	}
	return info, nil
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	ctx, cancel, err := s.call(ctx, "delete", key)
	if err != nil {
		return err
	}
	defer cancel()
	err = s.core.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
	if err = s.fail("delete", key, err); errors.Is(err, record.ErrNotFound) {
		return nil
	}
	return err
}

// List implements objstore.Store. The transport bounds each page, nothing the
// whole: a bucket may be large.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		if dir, _, deep := cutLast(prefix); deep {
			if err := objstore.CheckKey(dir); err != nil {
				yield(objstore.Info{}, err)
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(objstore.Info{}, fmt.Errorf("objstore: list %s: %w", prefix, err))
			return
		}
		q := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}
		for tries := 0; ; {
			before := q.StartAfter
			err := s.list(ctx, &q, yield)
			if err == nil {
				return
			}
			if q.StartAfter != before {
				tries = 0
			}
			if tries++; tries >= broken || !errors.Is(err, io.ErrUnexpectedEOF) {
				yield(objstore.Info{}, s.fail("list", prefix, err))
				return
			}
		}
	}
}

// list yields what lies behind q.StartAfter and moves it, so that the caller can
// go on where an answer broke off. Nil: it is over.
func (s *Store) list(ctx context.Context, q *minio.ListObjectsOptions, yield func(objstore.Info, error) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for o := range s.core.ListObjectsIter(ctx, s.bucket, *q) {
		if o.Err != nil {
			return o.Err
		}
		q.StartAfter = o.Key
		key := strings.TrimPrefix(o.Key, s.prefix)
		if objstore.CheckKey(key) != nil {
			continue // not ours
		}
		if !yield(objstore.Info{Key: key, Size: o.Size, Modified: o.LastModified}, nil) {
			return nil
		}
	}
	return ctx.Err()
}

func cutLast(prefix string) (dir, name string, ok bool) {
	i := strings.LastIndexByte(prefix, '/')
	if i < 0 {
		return "", prefix, false
	}
	return prefix[:i], prefix[i+1:], true
}

// fail names operation and key, and maps the conditions that callers tell apart.
func (s *Store) fail(op, key string, err error) error {
	if err == nil {
		return nil
	}
	r := minio.ToErrorResponse(err)
	switch {
	case r.Code == "NoSuchKey" || r.Code == "NotFound" || r.StatusCode == http.StatusNotFound && r.Code != "NoSuchBucket":
		return fmt.Errorf("objstore: %s %s: %w", op, key, record.ErrNotFound)
	case r.Code == "PreconditionFailed" || r.StatusCode == http.StatusPreconditionFailed:
		return fmt.Errorf("objstore: %s %s: %w", op, key, record.ErrExists)
	case r.Code == "QuotaExceeded" || r.StatusCode == http.StatusInsufficientStorage:
		return fmt.Errorf("objstore: %s %s in bucket %s: %w (%w); free some space", op, key, s.bucket, record.ErrFull, err)
	}
	return fmt.Errorf("objstore: %s %s in bucket %s: %w", op, key, s.bucket, err)
}
