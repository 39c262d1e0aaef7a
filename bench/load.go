package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// loadSchema's rows say when they were sent, in microseconds since 1970.
const loadSchema = `{"fields":[{"name":"at","type":"LONG","nullable":false},{"name":"text","type":"STRING"}]}`

// pacedRate is how many rows a second are published in all while tails are open:
// with a thousand of them each row is a thousand deliveries, and a server without
// any pause would show how long its queue is, not how long a delivery takes.
const pacedRate = 200

// load measures a server in a process of its own under many connections.
func load(ctx context.Context, o options) error {
	fmt.Printf("%s %s/%s, %d cores, one row a request; with tails %d rows/s in all, else as fast as answers come; %s each\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), pacedRate, o.time)
	fmt.Printf("%10s %6s %9s %13s  %-26s %-26s %10s\n", "publishers", "tails", "rows/s", "deliveries/s", "publish p50/p99/max ms", "delivery p50/p99/max ms", "server MiB")
	for _, tails := range []int{0, 1000} {
		for _, publishers := range []int{1, 100, 1000} {
			if o.only != "" && o.only != fmt.Sprintf("%dx%d", publishers, tails) {
				continue
			}
			if err := loadOnce(ctx, o, publishers, tails); err != nil {
				return fmt.Errorf("%d publishers, %d tails: %w", publishers, tails, err)
			}
		}
	}
	return nil
}

func loadOnce(ctx context.Context, o options, publishers, tails int) (err error) {
	s, err := startChild(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	b := &bench{options: o, url: s.url + "/v1", client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: publishers}}}
	body := fmt.Appendf(nil, `{"name":"load","schema":%s,"settings":{"archiveInterval":"1s","partitions":4}}`, loadSchema)
	if err := b.call(ctx, http.MethodPost, "/streams", "application/json", body, io.Discard); err != nil {
		return err
	}
	watch, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var open sync.WaitGroup
	open.Add(tails)
	following, watch := errgroup.WithContext(watch)
	var mu sync.Mutex
	var delivered, published []time.Duration
	for range tails {
		following.Go(func() error {
			mine, err := b.followLoad(watch, sync.OnceFunc(open.Done))
			mu.Lock()
			defer mu.Unlock()
			delivered = append(delivered, mine...)
			return err
		})
	}
	open.Wait()
	begun := time.Now()
	end := begun.Add(o.time)
	var refused atomic.Int64
	g, publishing := errgroup.WithContext(ctx)
	for i := range publishers {
		g.Go(func() error {
			var mine []time.Duration
			every := time.Duration(0)
			if tails > 0 {
				every = time.Duration(publishers) * time.Second / pacedRate
				pause(publishing, every*time.Duration(i)/time.Duration(publishers))
			}
			for publishing.Err() == nil && time.Now().Before(end) {
				at := time.Now()
				switch err := b.publishLoad(publishing); {
				case errors.Is(err, errRefused):
					refused.Add(1)
					pause(publishing, time.Second)
					continue
				case err != nil:
					return err
				}
				mine = append(mine, time.Since(at))
				pause(publishing, every-time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			published = append(published, mine...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := time.Since(begun)
	pause(ctx, 500*time.Millisecond) // for the last rows to be delivered
	rss, err := s.peakMemory()
	if err != nil {
		return err
	}
	stopWatching()
	if err := following.Wait(); err != nil {
		return err
	}
	fmt.Printf("%10d %6d %9.0f %13.0f  %-26s %-26s %10d\n", publishers, tails,
		float64(len(published))/took.Seconds(), float64(len(delivered))/took.Seconds(), spread(published), spread(delivered), rss>>20)
	if n := refused.Load(); n > 0 {
		fmt.Printf("%10s %d requests were answered 429\n", "", n)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// spread is p50/p99/max in milliseconds.
func spread(latencies []time.Duration) string {
	if len(latencies) == 0 {
		return "-"
	}
	slices.Sort(latencies)
	at := func(q float64) float64 {
		return float64(latencies[int(q*float64(len(latencies)-1))].Microseconds()) / 1000
	}
	return fmt.Sprintf("%.1f/%.1f/%.1f", at(0.5), at(0.99), at(1))
}

var errRefused = errors.New("answered 429")

func (b *bench) publishLoad(ctx context.Context) error {
	row := fmt.Appendf(nil, `{"at":%d,"text":"load"}`+"\n", time.Now().UnixMicro())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/streams/load/branches/main/rows", bytes.NewReader(row))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "":
		return errRefused
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("publish: %s: %s", resp.Status, text)
	}
	return nil
}

// followLoad follows the stream until ctx ends, and returns how long each row
// took from before its publish to here.
func (b *bench) followLoad(ctx context.Context, open func()) (latencies []time.Duration, err error) {
	defer open()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/streams/load/branches/main/tail", nil)
	if err != nil {
		return nil, err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("tail: %s; is the limit of open files (ulimit -n) high enough?", resp.Status)
	}
	open()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			return latencies, err
		}
		rest, ok := bytes.CutPrefix(line, []byte(`{"at":`))
		if !ok {
			continue // a heartbeat
		}
		digits, _, _ := bytes.Cut(rest, []byte{','})
		at, err := strconv.ParseInt(string(digits), 10, 64)
		if err != nil {
			return latencies, fmt.Errorf("tail: %w in %s", err, line)
		}
		latencies = append(latencies, time.Since(time.UnixMicro(at)))
	}
}

// child is this program again, as a server: its memory and its profile are not
// those of a thousand clients.
type child struct {
	cmd *exec.Cmd
	in  io.Closer
	url string
}

func startChild(ctx context.Context, o options) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.dir, "load-*")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-serve", "-dir", dir, "-cpuprofile", o.profile)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the server: %w", err), cmd.Wait())
	}
	return &child{cmd, in, strings.TrimSpace(url)}, nil
}

func (c *child) stop() error {
	return errors.Join(c.in.Close(), c.cmd.Wait())
}

// peakMemory is the most that the server ever held; 0 where it is not known.
func (c *child) peakMemory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, err
}

// serveChild is what the child does: it serves until its standard input ends.
func serveChild(ctx context.Context, o options) error {
	b, err := open(ctx, o, nil)
	if err != nil {
		return err
	}
	defer b.close()
	stop, err := profile(o.profile)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println(strings.TrimSuffix(b.url, "/v1"))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
