package test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// s3Server is a real S3 server on a directory, with one bucket.
type s3Server struct{ endpoint, bucket string }

const s3Key, s3Secret = "thermocline-test", "thermocline-test-secret"

func startS3(t *testing.T) *s3Server {
	t.Helper()
	binary := os.Getenv("THERMOCLINE_S3_SERVER")
	if binary == "" {
		t.Skip("THERMOCLINE_S3_SERVER names no S3 server; make test installs one")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	s := &s3Server{endpoint: "http://" + address, bucket: "lake"}
	dir := t.TempDir()
	for _, sub := range []string{"meta", "data/" + s.bucket} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	// Without --keep-alive, with which it now and then misreads the requests of Arrow's client.
	cmd := exec.Command(binary, "--quiet", "--access", s3Key, "--secret", s3Secret, "--port", address,
		"posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the S3 server says:\n%s", out.String())
		}
	})
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return s
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the S3 server does not listen")
	return nil
}

// env names the server to every client of S3.
func (s *s3Server) env() []string {
	return []string{
		"AWS_ENDPOINT_URL=" + s.endpoint, "AWS_ACCESS_KEY_ID=" + s3Key, "AWS_SECRET_ACCESS_KEY=" + s3Secret, "AWS_REGION=us-east-1",
		"AWS_EC2_METADATA_DISABLED=true",
	}
}

// startInBucket starts a server whose tables lie in the bucket of an S3 server.
func startInBucket(t *testing.T) *server {
	t.Helper()
	bucket := startS3(t)
	s := startServer(t, release)
	s.kill(t)
	s.dir = t.TempDir()
	s.args = []string{"--warehouse", fmt.Sprintf("s3://%s/tables", bucket.bucket), "--s3-endpoint", bucket.endpoint, "--s3-region", "us-east-1"}
	s.env = bucket.env()
	s.start(t)
	return s
}

// Tables in a bucket: archives through kills, reads of both halves, the check of
// all that is stored, and other engines.
func TestTablesInABucket(t *testing.T) {
	t.Parallel()
	python := pythonPath(t)
	s := startInBucket(t)
	st := s.create(t, "all_types", allTypesSchema, `{"partitions":2,"archiveInterval":"1h"}`)
	rows := allTypesRows(t, 600)
	for part := range 4 {
		st.publish(t, strings.Join(rows[part*150:(part+1)*150], ""))
		if part%2 == 1 {
			s.kill(t)
			s.start(t)
		}
		st.archive(t)
	}
	if uri := st.metadata(t); !strings.HasPrefix(uri, "s3://lake/tables/") {
		t.Errorf("the table's metadata is at %s", uri)
	}
	if entries, err := filepath.Glob(filepath.Join(s.dir, "data", "warehouse", "*")); err != nil || len(entries) > 0 {
		t.Errorf("%v beside the bucket, %v", entries, err)
	}
	s.run(t, "verify", "all_types")
	st.compareWithEngines(t, python, rows)

	// The same check without a server.
	s.kill(t)
	args := append([]string{"verify", "all_types", "--data", filepath.Join(s.dir, "data")}, s.args...)
	cmd := exec.CommandContext(t.Context(), s.binary, args...)
	cmd.Env = append(os.Environ(), s.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("verify --data: %v\n%s", err, out)
	}
}
