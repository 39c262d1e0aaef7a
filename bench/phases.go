package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// bench is a node behind HTTP on loopback, and the rows.
type bench struct {
	options
	data    *flights
	node    *node.Node
	server  *http.Server
	url     string
	client  *http.Client
	stop    context.CancelFunc
	stopped chan error
	avg     int // stored bytes of a row
}

func open(ctx context.Context, o options, data *flights) (*bench, error) {
	n, err := node.Open(ctx, node.Options{Dir: o.dir + "/node"})
	if err != nil {
		return nil, err
	}
	a, err := api.New(n.Backend(), api.Options{})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, data: data, node: n, server: a.Server(), url: "http://" + l.Addr().String() + "/v1", stopped: make(chan error, 1)}
	b.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}}
	run, stop := context.WithCancel(ctx)
	b.stop = stop
	go func() { b.stopped <- n.Run(run, time.Second) }()
	go func() { _ = b.server.Serve(l) }()
	return b, nil
}

func (b *bench) close() {
	_ = b.server.Close()
	b.stop()
	<-b.stopped
	_ = b.node.Close()
}

// create makes a stream that is archived only on request.
func (b *bench) create(ctx context.Context, name string) error {
	body := fmt.Sprintf(`{"name":%q,"schema":%s,"settings":{"archiveInterval":"24h"}}`, name, flightSchema)
	return b.call(ctx, http.MethodPost, "/streams", "application/json", []byte(body), io.Discard)
}

func (b *bench) call(ctx context.Context, method, path, contentType string, body []byte, out io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, method, b.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	_, err = io.Copy(out, resp.Body)
	return err
}

func (b *bench) publishNDJSON(ctx context.Context) error {
	return b.publish(ctx, "publish NDJSON", "ndjson", "application/x-ndjson", b.data.ndjson, b.clients)
}

func (b *bench) publishAvro(ctx context.Context) error {
	return b.publish(ctx, "publish Avro (OCF)", "avro", "application/avro", b.data.avro, b.clients)
}

func (b *bench) publishArrow(ctx context.Context) error {
	return b.publish(ctx, "publish Arrow (IPC)", "arrow", "application/vnd.apache.arrow.stream", b.data.arrow, b.clients)
}

// publishSmall sends rows one by one over many connections: the cost of a
// request, and group commit.
func (b *bench) publishSmall(ctx context.Context) error {
	bodies := make([]body, len(b.data.single))
	for i, l := range b.data.single {
		bodies[i] = body{l, 1}
	}
	return b.publish(ctx, "publish 1 row a request, 64 clients", "small", "application/x-ndjson", bodies, 64)
}

func (b *bench) publish(ctx context.Context, label, stream, contentType string, bodies []body, clients int) error {
	if err := b.create(ctx, stream); err != nil {
		return err
	}
	var next, rows, size atomic.Int64
	var mu sync.Mutex
	var latencies []time.Duration
	begun := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range clients {
		g.Go(func() error {
			var mine []time.Duration
			for {
				i := int(next.Add(1) - 1)
				if i >= len(bodies) {
					break
				}
				at := time.Now()
				if err := b.call(ctx, http.MethodPost, "/streams/"+stream+"/branches/main/rows", contentType, bodies[i].bytes, io.Discard); err != nil {
					return err
				}
				mine = append(mine, time.Since(at))
				rows.Add(int64(bodies[i].rows))
				size.Add(int64(len(bodies[i].bytes)))
			}
			mu.Lock()
			latencies = append(latencies, mine...)
			mu.Unlock()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	report(label, int(rows.Load()), size.Load(), time.Since(begun), latencies)
	return nil
}

// append writes stored rows to a hot log of its own, without HTTP and codecs.
func (b *bench) append(ctx context.Context) error {
	program, err := schema.CompileJSONToAvro(b.data.schema, schema.JSONOptions{})
	if err != nil {
		return err
	}
	var value []byte
	batch := new(record.Rows)
	for i := range 1000 {
		value = schema.AppendHeader(value[:0], 1)
		if value, err = program.Row(value, b.data.single[i%len(b.data.single)]); err != nil {
			return err
		}
		batch.Append(nil, value)
	}
	b.avg = batch.Bytes() / batch.Len()
	log, err := disk.Open(b.dir+"/log", disk.Options{})
	if err != nil {
		return err
	}
	defer log.Close()
	if err := log.Open(ctx, 1, hotbuffer.Settings{Type: hotbuffer.LowLatency, Partitions: 1}); err != nil {
		return err
	}
	for _, appenders := range []int{1, 16} {
		var latencies []time.Duration
		var mu sync.Mutex
		each := max(1, b.rows/1000/appenders)
		begun := time.Now()
		g, ctx := errgroup.WithContext(ctx)
		for range appenders {
			g.Go(func() error {
				mine := make([]time.Duration, 0, each)
				for range each {
					at := time.Now()
					if _, err := log.Append(ctx, 1, hotbuffer.Append{Parts: []hotbuffer.Part{{Partition: 0, Rows: batch}}}); err != nil {
						return err
					}
					mine = append(mine, time.Since(at))
				}
				mu.Lock()
				latencies = append(latencies, mine...)
				mu.Unlock()
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		n := each * appenders * 1000
		report(fmt.Sprintf("append 1000-row batches, %d at once", appenders), n, int64(n*b.avg), time.Since(begun), latencies)
	}
	return nil
}

func (b *bench) archive(ctx context.Context) error {
	begun := time.Now()
	if err := b.call(ctx, http.MethodPost, "/streams/ndjson/branches/main/archive", "", nil, io.Discard); err != nil {
		return err
	}
	report("archive to Parquet", b.data.rows, int64(b.data.rows*b.avg), time.Since(begun), nil)
	return nil
}

// read reads a stream that is half cold and half hot, in three shapes.
func (b *bench) read(ctx context.Context) error {
	for _, half := range b.data.avro {
		if err := b.call(ctx, http.MethodPost, "/streams/ndjson/branches/main/rows", "application/avro", half.bytes, io.Discard); err != nil {
			return err
		}
	}
	for _, q := range []struct{ name, query string }{
		{"hybrid read, Arrow", "format=arrow"},
		{"hybrid read, NDJSON", "format=ndjson"},
		{"hybrid read, 1 column, Arrow", "format=arrow&columns=delay"},
		{"hybrid read, where distance > 2500", "format=arrow&where=distance+%3E+2500"},
	} {
		var n countWriter
		begun := time.Now()
		if err := b.call(ctx, http.MethodGet, "/streams/ndjson/branches/main/rows?"+q.query, "", nil, &n); err != nil {
			return err
		}
		report(q.name, 2*b.data.rows, int64(n), time.Since(begun), nil)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("\nheap in use at the end %d MB, obtained from the system %d MB\n", m.HeapInuse>>20, m.Sys>>20)
	return nil
}

type countWriter int64

func (c *countWriter) Write(p []byte) (int, error) {
	*c += countWriter(len(p))
	return len(p), nil
}
