package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// wantFiles skips a test that opens more connections than the system lets a
// process have. (Go raises the soft limit by itself, for the server as well.)
func wantFiles(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < n {
		t.Skipf("this test needs %d open files, and the limit of a process is %d here: raise it (ulimit -Hn, ulimit -n) to run it", n, limit.Cur)
	}
}

// TestThousands has a thousand publishers and a thousand tails at work on one
// stream at the same time. All publishes are acknowledged, each tail gets every
// row, and memory stays within its bound.
func TestThousands(t *testing.T) {
	t.Parallel()
	const publishers, tails, requests = 1000, 1000, 2
	wantFiles(t, publishers+tails+200)
	s := startServer(t, release)
	st := s.create(t, "rows", numberedSchema, `{"partitions":4,"archiveInterval":"1s"}`)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: publishers}}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()

	var open, all sync.WaitGroup
	var delivered atomic.Int64
	open.Add(tails)
	for i := range tails {
		all.Go(func() {
			consistency := "AT_LEAST_ONCE"
			if i%4 == 0 {
				consistency = "EXACTLY_ONCE"
			}
			rows, err := countTail(ctx, client, st, consistency, publishers*requests, &open)
			delivered.Add(rows)
			if err != nil {
				t.Errorf("tail %d (%s): %d of %d rows: %v", i, consistency, rows, publishers*requests, err)
				cancel()
			}
		})
	}
	open.Wait()
	begun := time.Now()
	var refused atomic.Int64
	for i := range int64(publishers) {
		all.Go(func() {
			for r := range int64(requests) {
				n, err := publishOnce(ctx, client, st, numbered(i*requests+r, 1), fmt.Sprintf("%d/%d", i, r))
				refused.Add(n)
				if err != nil {
					t.Errorf("publisher %d: %v", i, err)
					cancel()
					return
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d rows of %d publishers, %d deliveries to %d tails in %s; %d requests were told to come again",
		publishers*requests, publishers, delivered.Load(), tails, time.Since(begun).Round(time.Millisecond), refused.Load())
	if t.Failed() {
		return
	}
	if rows := st.offsets(t).end(); rows != publishers*requests {
		t.Errorf("%d rows, want %d", rows, publishers*requests)
	}
	peak := s.peakMemory(t)
	t.Logf("peak memory of the server: %d MiB", peak>>20)
	if peak > maxMemory {
		t.Errorf("the server held %d MiB, %d are the most", peak>>20, maxMemory>>20)
	}
	client.CloseIdleConnections() // a server waits for those that were never used
	s.stop(t)
}

// TestThousandSubscribers has a thousand subscribers read one stream at the same
// time. Each gets every row, and each commits where it has come to.
func TestThousandSubscribers(t *testing.T) {
	t.Parallel()
	const subscribers, publishers, requests = 1000, 100, 5
	wantFiles(t, subscribers+publishers+200)
	s := startServer(t, release)
	st := s.create(t, "rows", numberedSchema, `{"partitions":4,"archiveInterval":"1s"}`)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: subscribers}}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	begun := time.Now()
	var open, all sync.WaitGroup
	open.Add(subscribers)
	for i := range subscribers {
		all.Go(func() {
			if err := readSubscriber(ctx, client, st, fmt.Sprintf("s%d", i), publishers*requests, &open); err != nil {
				t.Errorf("subscriber %d: %v", i, err)
				cancel()
			}
		})
	}
	open.Wait()
	opened := time.Since(begun)
	begun = time.Now()
	for i := range int64(publishers) {
		all.Go(func() {
			for r := range int64(requests) {
				if _, err := publishOnce(ctx, client, st, numbered(i*requests+r, 1), fmt.Sprintf("%d/%d", i, r)); err != nil {
					t.Errorf("publisher %d: %v", i, err)
					cancel()
					return
				}
			}
		})
	}
	all.Wait()
	peak := s.peakMemory(t)
	t.Logf("%d subscribers made and joined in %s, %d rows delivered to each and committed in %s; peak memory of the server %d MiB",
		subscribers, opened.Round(time.Millisecond), publishers*requests, time.Since(begun).Round(time.Millisecond), peak>>20)
	if peak > maxMemory {
		t.Errorf("the server held %d MiB, %d are the most", peak>>20, maxMemory>>20)
	}
	client.CloseIdleConnections() // a server waits for those that were never used
	s.stop(t)
}

// readSubscriber makes a subscriber, reads n rows, and commits behind them.
func readSubscriber(ctx context.Context, client *http.Client, st *stream, name string, n int, open *sync.WaitGroup) error {
	told := sync.OnceFunc(open.Done)
	defer told()
	base := &remote{http: client, url: "http://" + st.address + st.path}
	asJSON := http.Header{"Content-Type": {"application/json"}}
	post := func(path, body string) error {
		_, err := base.send(ctx, http.MethodPost, path, asJSON, []byte(body))
		return err
	}
	if err := post("/subscribers", fmt.Sprintf(`{"id":%q,"consistency":"AT_LEAST_ONCE"}`, name)); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.url+"/subscribers/"+name+"/rows", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReaderSize(resp.Body, 4096)
	var mark heldMark
	session := int64(0)
	for rows := 0; rows < n || mark.Kind != "cursor"; {
		line, err := lines.ReadSlice('\n')
		switch {
		case err != nil:
			return fmt.Errorf("%d of %d rows: %w", rows, n, err)
		case len(line) == 1: // a heartbeat
		case !bytes.HasPrefix(line, []byte(`{"_thermocline"`)):
			rows++
			mark.Kind = ""
		default:
			mark = heldMark{}
			if err := json.Unmarshal(line, &mark); err != nil {
				return err
			}
			if mark.Problem != nil {
				return mark.Problem
			}
			if mark.Kind == "assignment" {
				session = mark.Session
				told()
			}
		}
	}
	return post("/subscribers/"+name+"/commit", fmt.Sprintf(`{"session":%d,"cursor":%q}`, session, mark.Cursor))
}

// countTail follows the stream until it has seen n rows. It tells open when it is
// on.
func countTail(ctx context.Context, client *http.Client, st *stream, consistency string, n int64, open *sync.WaitGroup) (rows int64, err error) {
	told := sync.OnceFunc(open.Done)
	defer told()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+st.address+st.path+"/tail?consistency="+consistency, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return 0, fmt.Errorf("%s: %s", resp.Status, text)
	}
	told()
	lines := bufio.NewReaderSize(resp.Body, 4096)
	for rows < n {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return rows, err
		}
		switch {
		case bytes.HasPrefix(line, []byte(`{"_thermocline"`)):
			return rows, fmt.Errorf("it ended with %s", line)
		case len(line) > 1:
			rows++
		}
	}
	return rows, nil
}

// publishOnce publishes until it is acknowledged, and pauses where it is told to.
func publishOnce(ctx context.Context, client *http.Client, st *stream, lines, key string) (refused int64, err error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+st.address+st.path+"/rows", strings.NewReader(lines))
		if err != nil {
			return refused, err
		}
		req.Header.Set("Content-Type", "application/x-ndjson")
		req.Header.Set("Idempotency-Key", key)
		resp, err := client.Do(req)
		if err != nil {
			return refused, err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return refused, err
		case resp.StatusCode == http.StatusOK:
			return refused, nil
		case resp.StatusCode != http.StatusTooManyRequests:
			return refused, fmt.Errorf("%s: %s", resp.Status, text)
		}
		refused++
		pause, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if err != nil {
			return refused, errors.New("429 without Retry-After")
		}
		select {
		case <-ctx.Done():
			return refused, ctx.Err()
		case <-time.After(time.Duration(pause) * time.Second):
		}
	}
}

// TestSlowClientsHarmNobody gives one stream every slow client there is: tails
// and readers that read nothing while it is flooded and archives a backlog,
// publishers that declare much and send a byte now and then. Another stream goes
// on as if nothing were: its publishes are acknowledged, its tail gets the rows,
// and its reads are answered, while all of those are stuck. The slow publishers
// are given up with 408.
func TestSlowClientsHarmNobody(t *testing.T) {
	t.Parallel()
	const silent, trickling, floodClients, floodRows = 50, 300, 4, 25
	wantFiles(t, 2*silent+trickling+200)
	s := startServer(t, release)
	slow := s.create(t, "slow", numberedSchema, `{"archiveInterval":"1h"}`)
	good := s.create(t, "good", numberedSchema, `{"archiveInterval":"1s"}`)

	// 24 MB of backlog: more than the kernel takes for a client that reads nothing.
	row := `{"number":1,"group":"g","text":"` + strings.Repeat("x", 100_000) + `"}` + "\n"
	for range 12 {
		slow.publish(t, strings.Repeat(row, 20))
	}
	for range silent {
		ask(t, slow, "GET "+slow.path+"/tail?from=earliest HTTP/1.1\r\nHost: x\r\n\r\n")
		ask(t, slow, "GET "+slow.path+"/rows HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	trickles := make([]net.Conn, trickling)
	for i := range trickles {
		trickles[i] = ask(t, slow, fmt.Sprintf("POST %s/rows HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n[", slow.path, 60<<20))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var floods sync.WaitGroup
	defer floods.Wait()
	defer cancel()
	flood := strings.Repeat(row, floodRows)
	var flooded atomic.Int64
	for range floodClients {
		floods.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.send(ctx, http.MethodPost, slow.path+"/rows", ndjson, []byte(flood)); err == nil {
					flooded.Add(1)
				}
				rest(ctx, 50*time.Millisecond)
			}
		})
	}
	archived := make(chan error, 1)
	go func() {
		_, err := s.send(ctx, http.MethodPost, slow.path+"/archive", nil, nil)
		archived <- err
	}()

	const rows = 200
	var open, tails sync.WaitGroup
	open.Add(2)
	for _, consistency := range []string{"AT_LEAST_ONCE", "EXACTLY_ONCE"} {
		tails.Go(func() {
			if n, err := countTail(ctx, http.DefaultClient, good, consistency, rows, &open); err != nil {
				t.Errorf("tail (%s) of the other stream: %d of %d rows: %v", consistency, n, rows, err)
			}
		})
	}
	open.Wait()
	var worst time.Duration
	for i := range int64(rows) {
		begun := time.Now()
		if _, err := s.send(ctx, http.MethodPost, good.path+"/rows", ndjson, []byte(numbered(i, 1))); err != nil {
			t.Fatalf("publish %d to the other stream, behind %d floods: %v", i, flooded.Load(), err)
		}
		worst = max(worst, time.Since(begun))
	}
	tails.Wait()
	good.wantNumbers(t, rows)
	if n := good.archive(t).Rows; n > rows {
		t.Errorf("%d rows archived", n)
	}
	good.wantNumbers(t, rows)
	if err := <-archived; err != nil {
		t.Errorf("archive of the slow stream: %v", err)
	}
	peak := s.peakMemory(t)
	t.Logf("%d publishes, the slowest took %s, beside %d requests of 2.5 MB; peak memory of the server %d MiB", rows, worst.Round(time.Millisecond), flooded.Load(), peak>>20)
	if peak > maxMemory {
		t.Errorf("the server held %d MiB, %d are the most", peak>>20, maxMemory>>20)
	}
	cancel()
	floods.Wait()

	// A byte a second does not keep them alive.
	var given sync.WaitGroup
	for i, conn := range trickles {
		given.Go(func() {
			if err := wantTimeout(conn); err != nil {
				t.Errorf("slow publisher %d: %v", i, err)
			}
		})
	}
	given.Wait()
	if n := slow.offsets(t).end() - 240 - floodRows*flooded.Load(); n < 0 || n > floodClients*floodRows {
		t.Errorf("%d rows in the slow stream, want 240, and %d for each of %d requests and some of the last", n+240+floodRows*flooded.Load(), floodRows, flooded.Load())
	}
}

// ask opens a connection that takes as little as possible and sends text on it.
func ask(t *testing.T, s *stream, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.(*net.TCPConn).SetReadBuffer(4096) //nolint:errcheck // only a wish
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// wantTimeout sends a byte a second until the server has answered, with 408 or 429.
func wantTimeout(conn net.Conn) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if _, err := conn.Write([]byte{' '}); err != nil {
				return
			}
		}
	}()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var p problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
		return err
	}
	switch {
	case resp.StatusCode == http.StatusRequestTimeout && p.Code == "REQUEST_TIMEOUT":
		return nil
	case resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "":
		return nil // there were too many like it
	}
	return &p
}
