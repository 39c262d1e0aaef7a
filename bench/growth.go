package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// archiveEvery is the time between two archives, as streams have it by default.
const archiveEvery = 2 * time.Minute

// growth is a stream's table under a clock of its own, with some rows an archive and
// the upkeep as often as a server does it.
type growth struct {
	catalog  *catalog.Catalog
	store    objstore.Store
	datasets *dataset.Datasets
	now      time.Time
	schema   *schema.Schema
	table    string // its id
	view     record.ViewID
	grace    time.Duration // of collections; 0: the default
	archived record.Offset
	rows     int   // of an archive
	wrote    int64 // bytes of archives
	rewrote  int64 // bytes that compaction wrote
	random   *rand.ChaCha8
}

// grown is what there is after some archives.
type grown struct {
	archives   int
	metadata   int64 // bytes of the current metadata file
	snapshots  int
	manifests  int   // of the head
	list       int64 // bytes of the head's manifest list
	live       int64 // data files of the head
	files      int   // on disk, of all kinds
	bytes      int64 // of these
	commit     time.Duration
	load       time.Duration
	collection time.Duration // the last one
}

func newGrowth(ctx context.Context, dir string, o dataset.Options) (_ *growth, err error) {
	g := &growth{rows: 1, random: rand.NewChaCha8([32]byte{}), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	o.Now = func() time.Time { return g.now }
	if g.catalog, err = catalog.Open(ctx, catalog.Options{Path: filepath.Join(dir, "catalog.db"), Now: o.Now}); err != nil {
		return nil, err
	}
	if g.store, err = objstore.NewFS(filepath.Join(dir, "warehouse")); err != nil {
		return nil, err
	}
	g.datasets = dataset.New(g.store, g.catalog, o)
	g.schema = &schema.Schema{Fields: []schema.Field{
		{ID: schema.FirstUserID, Name: "n", Type: schema.Type{Kind: schema.Long}},
		{ID: schema.FirstUserID + 1, Name: "text", Type: schema.Type{Kind: schema.String}},
	}}
	_, b, err := g.catalog.CreateStream(ctx, catalog.NewStream{Name: "growth", Schema: catalog.NewSchema{Schema: g.schema, NextFieldID: schema.FirstUserID + 2}})
	if err != nil {
		return nil, err
	}
	g.table, g.view = b.TableUUID, b.View.ID
	_, err = g.datasets.Create(ctx, g.table, g.schema, nil)
	return g, err
}

func (g *growth) close() error { return g.catalog.Close() }

// archive commits rows of 1 KiB of random text, as an archive does.
func (g *growth) archive(ctx context.Context) error {
	g.now = g.now.Add(archiveEvery)
	t, err := g.datasets.Load(ctx, g.table)
	if err != nil {
		return err
	}
	o := g.archived
	end := o + record.Offset(g.rows)
	ranges := []dataset.PartRange{{Partition: 0, Range: record.Range{Start: o, End: end}}}
	w, err := t.NewFileWriter(ctx, dataset.FileName{View: 1, Epoch: 1, Ranges: ranges}, g.schema, dataset.Parquet)
	if err != nil {
		return err
	}
	defer w.Abort()
	b := array.NewRecordBuilder(memory.DefaultAllocator, g.schema.WithSystem().Arrow())
	defer b.Release()
	text := make([]byte, 512)
	for ; o < end; o++ {
		_, _ = g.random.Read(text) // never fails
		b.Field(0).(*array.Int64Builder).Append(int64(o))
		b.Field(1).(*array.StringBuilder).Append(hex.EncodeToString(text))
		b.Field(2).(*array.Int32Builder).Append(1)
		b.Field(3).(*array.Int32Builder).Append(0)
		b.Field(4).(*array.Int64Builder).Append(int64(o))
		b.Field(5).(*array.TimestampBuilder).Append(arrow.Timestamp(g.now.UnixMicro()))
	}
	batch := b.NewRecordBatch()
	defer batch.Release()
	if err := w.Write(batch); err != nil {
		return err
	}
	f, err := w.Close()
	if err != nil {
		return err
	}
	_, err = g.datasets.Commit(ctx, g.table, dataset.Commit{Base: t, Add: []dataset.DataFile{f}, Marker: &dataset.Marker{
		View: g.view, ViewNumber: 1, Epoch: 1, Offsets: record.Offsets{end}, CommitID: fmt.Sprintf("commit-%d", end), Cluster: "growth", ValidThroughMs: g.now.UnixMilli(),
	}})
	if err == nil {
		g.archived, g.wrote = end, g.wrote+f.Bytes()
	}
	return err
}

// tend does what a server does behind archive number n.
func (g *growth) tend(ctx context.Context, n int) (collection time.Duration, err error) {
	if due(n, node.CompactEvery) {
		for {
			out, err := g.datasets.Compact(ctx, g.table, dataset.CompactOptions{Schema: g.schema})
			if err != nil {
				return 0, err
			}
			if g.rewrote += out.After; out.Files == 0 {
				break
			}
		}
	}
	if due(n, node.ExpireEvery) {
		if _, err := g.datasets.Expire(ctx, g.table, dataset.ExpireOptions{}); err != nil {
			return 0, err
		}
		begin := time.Now()
		if _, err := g.datasets.Collect(ctx, g.table, dataset.CollectOptions{Grace: g.grace}); err != nil {
			return 0, err
		}
		collection = time.Since(begin)
	}
	return collection, nil
}

func due(n int, every time.Duration) bool { return n%int(every/archiveEvery) == 0 }

// look measures what there is. Loading is without what this process knows.
func (g *growth) look(ctx context.Context) (s grown, err error) {
	fresh := dataset.New(g.store, g.catalog, dataset.Options{})
	begin := time.Now()
	t, err := fresh.Load(ctx, g.table)
	if err != nil {
		return s, err
	}
	for _, err := range t.Files(ctx, 0) {
		if err != nil {
			return s, err
		}
		s.live++
	}
	s.load = time.Since(begin)
	s.snapshots = len(t.Snapshots())
	manifests, err := t.Metadata().CurrentSnapshot().Manifests(dataset.IO(ctx, g.store))
	if err != nil {
		return s, err
	}
	s.manifests = len(manifests)
	for o, err := range g.store.List(ctx, "") {
		if err != nil {
			return s, err
		}
		s.files++
		s.bytes += o.Size
		switch {
		case strings.HasSuffix(t.MetadataLocation(), o.Key):
			s.metadata = o.Size
		case strings.HasSuffix(t.Metadata().CurrentSnapshot().ManifestList, o.Key):
			s.list = o.Size
		}
	}
	return s, nil
}

// run archives, tends and reports every so many archives.
func (g *growth) run(ctx context.Context, archives, every int, report func(grown)) error {
	commits, collection := time.Duration(0), time.Duration(0)
	for n := 1; n <= archives; n++ {
		begin := time.Now()
		if err := g.archive(ctx); err != nil {
			return err
		}
		commits += time.Since(begin)
		took, err := g.tend(ctx, n)
		if err != nil {
			return err
		}
		if took > 0 {
			collection = took
		}
		if n%every == 0 || n == archives {
			s, err := g.look(ctx)
			if err != nil {
				return err
			}
			s.archives, s.collection = n, collection
			s.commit = commits / time.Duration((n-1)%every+1)
			commits = 0
			report(s)
		}
	}
	return nil
}

// growing prints how a table grows with its archives.
func growing(ctx context.Context, o options) error {
	g, err := newGrowth(ctx, o.dir, dataset.Options{})
	if err != nil {
		return err
	}
	defer g.close()
	g.rows = o.archiveRows
	fmt.Printf("%d archives of %d rows, one every %v of the table's own clock (%.1f days); compaction every %v, expiry and collection every %v\n\n",
		o.archives, g.rows, archiveEvery, (time.Duration(o.archives)*archiveEvery).Hours()/24, node.CompactEvery, node.ExpireEvery)
	const line = "%9s %9s %10s %10s %12s %11s %9s %10s %10s %9s %11s\n"
	fmt.Printf(line, "archives", "days", "metadata B", "snapshots", "manifests", "list bytes", "live", "all files", "all MB", "commit ms", "load ms")
	err = g.run(ctx, o.archives, o.every, func(s grown) { printGrown(os.Stdout, line, s) })
	if err != nil {
		return err
	}
	t, err := g.datasets.Load(ctx, g.table)
	if err != nil {
		return err
	}
	fmt.Printf("\narchives wrote %.1f MB, compaction %.1f MB; the live files, in MiB:", float64(g.wrote)/1e6, float64(g.rewrote)/1e6)
	for f, err := range t.Files(ctx, 0) {
		if err != nil {
			return err
		}
		fmt.Printf(" %.1f", float64(f.Bytes)/(1<<20))
	}
	fmt.Println()
	return nil
}

func printGrown(w io.Writer, line string, s grown) {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }
	n := func(v int64) string { return fmt.Sprint(v) }
	fmt.Fprintf(w, line, n(int64(s.archives)), fmt.Sprintf("%.1f", (time.Duration(s.archives)*archiveEvery).Hours()/24), n(s.metadata), n(int64(s.snapshots)), n(int64(s.manifests)),
		n(s.list), n(s.live), n(int64(s.files)), fmt.Sprintf("%.1f", float64(s.bytes)/1e6), ms(s.commit), ms(s.load))
}
