package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/dataset/objstore/objstoretest"
	"github.com/thermocline/thermocline/record"
)

// server is a real S3 server on a directory; one serves all tests.
var server = sync.OnceValues(startServer)

const access, secret = "thermocline-test", "thermocline-test-secret"

var stopServer = func() {}

func TestMain(m *testing.M) {
	code := m.Run()
	stopServer()
	os.Exit(code)
}

func startServer() (string, error) {
	dir, err := os.MkdirTemp("", "s3")
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command(os.Getenv("THERMOCLINE_S3_SERVER"), "--quiet", "--keep-alive", "--access", access, "--secret", secret,
		"--port", addr, "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	for _, sub := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o750); err != nil {
			return "", err
		}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stopServer = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", fmt.Errorf("the S3 server does not listen: %s", out.String())
}

var buckets atomic.Int64

// options are of a new, empty bucket.
func options(t *testing.T) Options {
	t.Helper()
	if os.Getenv("THERMOCLINE_S3_SERVER") == "" {
		t.Skip("THERMOCLINE_S3_SERVER names no S3 server; make test installs one")
	}
	addr, err := server()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Endpoint: addr, Insecure: true, Region: "us-east-1", Bucket: fmt.Sprintf("test-%d", buckets.Add(1)), Prefix: "lake/a",
		AccessKey: access, SecretKey: secret, PartBytes: minPart, Timeout: 20 * time.Second,
	}
	c, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(access, secret, "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeBucket(t.Context(), o.Bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return o
}

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	objstoretest.Run(t, func(t *testing.T) objstore.Store { return open(t, options(t)) })
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// Objects of several parts come back whole, are not there before Commit, and are
// never overwritten.
func TestParts(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	for _, size := range []int{minPart, minPart + 1, 2 * minPart, 2*minPart + 12345} {
		key, data := fmt.Sprintf("big/%d", size), noise(size)
		w, err := s.Create(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, record.ErrNotFound) {
			t.Errorf("%d bytes: before Commit: %v", size, err)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		if got, err := objstore.Get(t.Context(), s, key, 1<<30); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: other ones came back: %v", size, err)
		}
		if err := objstore.Put(t.Context(), s, key, noise(size+1)); !errors.Is(err, record.ErrExists) {
			t.Errorf("%d bytes: overwritten: %v", size, err)
		}
		if got, err := objstore.Get(t.Context(), s, key, 1<<30); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: changed by a second write: %v", size, err)
		}
	}
}

// An aborted upload leaves no parts behind.
func TestAbortFreesParts(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	w, err := s.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(noise(2*minPart + 1)); err != nil {
		t.Fatal(err)
	}
	if n := uploads(t, s); n != 1 {
		t.Fatalf("%d uploads under way, want 1", n)
	}
	w.Abort()
	if n := uploads(t, s); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

func uploads(t *testing.T, s *Store) (n int) {
	t.Helper()
	for u := range s.core.ListIncompleteUploads(t.Context(), s.bucket, s.prefix, true) {
		if u.Err != nil {
			t.Fatal(u.Err)
		}
		n++
	}
	return n
}

// What cannot work says so at once, and what to do.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	good := options(t)
	for what, change := range map[string]struct {
		o    func(*Options)
		want error
		says string
	}{
		"no endpoint":  {func(o *Options) { o.Endpoint = "" }, record.ErrInvalid, "endpoint"},
		"no bucket":    {func(o *Options) { o.Bucket = "" }, record.ErrInvalid, "bucket"},
		"other bucket": {func(o *Options) { o.Bucket = "not-there" }, record.ErrNotFound, "create it"},
		"prefix":       {func(o *Options) { o.Prefix = "../x" }, record.ErrInvalid, "prefix"},
		"small parts":  {func(o *Options) { o.PartBytes = 1 << 20 }, record.ErrInvalid, "at least"},
		"wrong secret": {func(o *Options) { o.SecretKey = "wrong" }, nil, "bucket"},
	} {
		o := good
		change.o(&o)
		_, err := Open(t.Context(), o)
		if err == nil || change.want != nil && !errors.Is(err, change.want) || !strings.Contains(err.Error(), change.says) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells the secret: %v", what, err)
		}
	}
}

// faulty is a way to the server on which calls fail.
type faulty struct {
	next http.RoundTripper
	// fault decides on the n-th call, from 1.
	fault func(n int64, r *http.Request) fault
	calls atomic.Int64
}

type fault int

const (
	fine fault = iota
	refused
	unavailable // 503
	lost        // the call succeeds, its answer does not come
	torn        // the answer breaks off in its body
	silent      // no answer until the time is over
)

func (f *faulty) RoundTrip(r *http.Request) (*http.Response, error) {
	kind := f.fault(f.calls.Add(1), r)
	switch kind {
	case refused:
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	case unavailable:
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		return &http.Response{
			StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Request: r, ProtoMajor: 1, ProtoMinor: 1,
			Body: io.NopCloser(strings.NewReader("<Error><Code>SlowDown</Code></Error>")),
		}, nil
	case silent:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	resp, err := f.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch kind {
	case lost:
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return nil, io.ErrUnexpectedEOF
	case torn:
		resp.Body = &tornBody{resp.Body, resp.ContentLength / 2}
	}
	return resp, nil
}

type tornBody struct {
	io.ReadCloser
	left int64
}

func (b *tornBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// Whichever single call fails, and however, objects are written once and read
// whole: the error sweep over every call of a script.
func TestEveryCallFailsOnce(t *testing.T) {
	t.Parallel()
	points := 0
	for _, kind := range []fault{refused, unavailable, lost, torn} {
		for at := int64(1); ; at++ {
			o := options(t)
			f := &faulty{next: transport(o.Timeout), fault: func(n int64, r *http.Request) fault {
				if n == at && (kind != torn || r.Method == http.MethodGet) {
					return kind
				}
				return fine
			}}
			o.transport = f
			script(t, open(t, o))
			// One that was begun by a call whose answer was lost is nobody's; a
			// later Open gives it up.
			if n := uploads(t, plain(t, o)); n > 0 && kind != lost || n > 1 {
				t.Errorf("%d uploads are left", n)
			}
			if t.Failed() {
				t.Fatalf("fault %d at call %d", kind, at)
			}
			if f.calls.Load() < at {
				break
			}
			points++
		}
	}
	t.Logf("%d points", points)
	if points < 30 {
		t.Errorf("only %d points: the script does not reach the server", points)
	}
}

// plain is the same bucket without faults.
func plain(t *testing.T, o Options) *Store {
	o.transport = nil
	return open(t, o)
}

func script(t *testing.T, s *Store) {
	t.Helper()
	small, large := noise(1000), noise(minPart+1000)
	for key, data := range map[string][]byte{"t/small": small, "t/large": large} {
		if err := objstore.Put(t.Context(), s, key, data); err != nil {
			t.Errorf("put %s: %v", key, err)
		}
		if got, err := objstore.Get(t.Context(), s, key, 1<<30); err != nil || !bytes.Equal(got, data) {
			t.Errorf("get %s: %d bytes, %v", key, len(got), err)
		}
		if err := objstore.Put(t.Context(), s, key, []byte("other")); !errors.Is(err, record.ErrExists) {
			t.Errorf("put %s again: %v", key, err)
		}
	}
	var keys []string
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Error(err)
		}
		keys = append(keys, info.Key)
	}
	if fmt.Sprint(keys) != "[t/large t/small]" {
		t.Errorf("listed %v", keys)
	}
	if err := s.Delete(t.Context(), "t/small"); err != nil {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), "t/small"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("stat of a deleted object: %v", err)
	}
}

// A server that does not answer is given up when the time is over.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	o := options(t)
	var on atomic.Bool
	o.Timeout = 300 * time.Millisecond
	o.transport = &faulty{next: transport(time.Second), fault: func(int64, *http.Request) fault {
		if on.Load() {
			return silent
		}
		return fine
	}}
	s := open(t, o)
	if err := objstore.Put(t.Context(), s, "a", noise(100)); err != nil {
		t.Fatal(err)
	}
	obj, err := s.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	for what, call := range map[string]func() error{
		"put":    func() error { return objstore.Put(t.Context(), s, "b", noise(100)) },
		"stat":   func() error { _, err := s.Stat(t.Context(), "a"); return err },
		"delete": func() error { return s.Delete(t.Context(), "a") },
		"read":   func() error { _, err := obj.ReadAt(make([]byte, 10), 0); return err },
	} {
		if err := call(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An object that was replaced behind our back is not read as a mixture.
func TestReplacedWhileOpen(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	if err := objstore.Put(t.Context(), s, "a", noise(1000)); err != nil {
		t.Fatal(err)
	}
	obj, err := s.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other := noise(1001)[:1000]
	if _, err := s.core.PutObject(t.Context(), s.bucket, s.prefix+"a", bytes.NewReader(other), 1000, "", "", minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := obj.ReadAt(make([]byte, 10), 0); !errors.Is(err, record.ErrCorrupt) {
		t.Errorf("read of a replaced object: %v", err)
	}
}
