// Command bench measures the main paths of a Thermocline node on this machine
// and prints figures, no verdicts: publish over HTTP in three formats, append to
// the hot log, archive, and hybrid read.
//
//	go run ./bench [-rows 1000000] [-flights FILE.ndjson.gz] [-dir DIR] [-cpuprofile FILE]
//	go run ./bench -load [-time 5s]
//	go run ./bench -growth [-archives 20000] [-archiverows 1] [-every 1000]
//
// The rows are flights (date, delay, distance, origin, destination): the first
// rows of FILE, or made up with a fixed seed. With -load it measures latencies
// under 1 to 1,000 publishers and up to 1,000 tails instead; with -growth, how the
// metadata of a dataset grows with its archives.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"
)

func main() {
	rows := flag.Int("rows", 1_000_000, "rows of each phase")
	file := flag.String("flights", "", "NDJSON file of flights, gzip; default: made up")
	dir := flag.String("dir", "", "directory for data; default: a temporary one on this file system")
	clients := flag.Int("clients", 4, "concurrent publishers")
	batch := flag.Int("batch", 5000, "rows of a publish request")
	profile := flag.String("cpuprofile", "", "write a CPU profile of all phases here")
	many := flag.Bool("load", false, "measure many connections instead")
	each := flag.Duration("time", 5*time.Second, "with -load: how long each number of connections is measured")
	only := flag.String("only", "", "with -load: only these numbers, like 1000x1000 for publishers and tails")
	serve := flag.Bool("serve", false, "be the server that -load measures")
	grow := flag.Bool("growth", false, "archive again and again instead, and show how the dataset grows")
	archives := flag.Int("archives", 20_000, "with -growth: how many archives; a year has 262,800")
	archiveRows := flag.Int("archiverows", 1, "with -growth: rows of 1 KiB in each archive")
	every := flag.Int("every", 1000, "with -growth: a line each so many archives")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	do := run
	switch {
	case *serve:
		do = serveChild
	case *many:
		do = load
	case *grow:
		do = growing
	}
	if err := in(ctx, do, options{*rows, *batch, *clients, *file, *dir, *profile, *each, *only, *archives, max(*archiveRows, 1), max(*every, 1)}); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rows, batch, clients int
	file, dir, profile   string

	time time.Duration
	only string

	archives, archiveRows, every int
}

// in makes a directory for data if there is none.
func in(ctx context.Context, do func(context.Context, options) error, o options) error {
	if o.dir == "" {
		d, err := os.MkdirTemp(".", ".bench-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(d)
		o.dir = d
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	return do(ctx, o)
}

func run(ctx context.Context, o options) error {
	fmt.Printf("%s %s/%s, %d cores, %d rows a phase, %d rows a request, %d clients\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), o.rows, o.batch, o.clients)
	data, err := loadFlights(o)
	if err != nil {
		return err
	}
	b, err := open(ctx, o, data)
	if err != nil {
		return err
	}
	defer b.close()
	stop, err := profile(o.profile)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Printf("%-36s %12s %10s %10s %10s\n", "phase", "rows/s", "MB/s", "p50 ms", "p99 ms")
	for _, phase := range []func(context.Context) error{
		b.publishNDJSON, b.publishAvro, b.publishArrow, b.publishSmall, b.append, b.archive, b.read,
	} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	fmt.Println("\nMB/s: of the bytes sent or received, or of the rows' stored form for append and archive.")
	return nil
}

// report prints one line of figures.
func report(name string, rows int, bytes int64, took time.Duration, latencies []time.Duration) {
	p := func(q float64) string {
		if len(latencies) == 0 {
			return "-"
		}
		slices.Sort(latencies)
		return fmt.Sprintf("%.2f", float64(latencies[int(q*float64(len(latencies)-1))].Microseconds())/1000)
	}
	s := took.Seconds()
	fmt.Printf("%-36s %12.0f %10.1f %10s %10s\n", name, float64(rows)/s, float64(bytes)/s/1e6, p(0.5), p(0.99))
}

// profile writes a CPU profile to a file until stop is called; without a file it
// does nothing.
func profile(file string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}
