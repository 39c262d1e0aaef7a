package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// Backend is what the REST interface calls.
func (n *Node) Backend() api.Backend {
	b := backend{n}
	return api.Backend{
		Streams: b, Branches: branches{n}, Tags: branches{n}, Schemas: schemas{n}, Publisher: n.writer, Producers: b, Reader: b, Subscribers: subscribers{n.subscribers, n.directory}, Archiver: b, Datasets: datasets{n}, Warehouse: warehouse{n}, Transactions: n.transactions, Uploads: n.transactions, Heads: n.transactions, Maintainer: maintainer{n}, Merger: n.directory, Figures: n.figures, Verifier: n.verifier, Iceberg: tables{n}, Answers: answers{n.catalog},
	}
}

type backend struct{ n *Node }

func (b backend) CreateStream(ctx context.Context, c api.CreateStream) (api.Stream, error) {
	st, err := b.n.directory.Create(ctx, c.Name, c.Schema, patched(catalog.Settings{}, c.Settings))
	if err != nil {
		return api.Stream{}, err
	}
	return b.stream(ctx, st)
}

func (b backend) Stream(ctx context.Context, name string) (api.Stream, error) {
	st, err := b.n.directory.Resolve(name, catalog.MainBranch)
	if err != nil {
		return api.Stream{}, err
	}
	return b.stream(ctx, st)
}

func (b backend) stream(ctx context.Context, st *branch.State) (api.Stream, error) {
	main, err := b.branch(ctx, st)
	return api.Stream{StreamSummary: summary(st.Stream), Main: main}, err
}

func (b backend) branch(ctx context.Context, st *branch.State) (api.Branch, error) {
	v, err := schemas(b).version(ctx, st)
	return api.Branch{Name: st.Branch.Name, View: st.Branch.View.Number, Schema: v, Settings: settingsOf(st)}, err
}

func summary(s catalog.Stream) api.StreamSummary {
	return api.StreamSummary{Name: s.FullName(), CreatedAt: s.Created}
}

func (b backend) ListStreams(ctx context.Context, p api.Page) ([]api.StreamSummary, string, error) {
	return b.n.list(ctx, catalog.KindStream, p)
}

func (n *Node) list(ctx context.Context, kind catalog.Kind, p api.Page) ([]api.StreamSummary, string, error) {
	page, err := n.catalog.ListStreams(ctx, catalog.StreamQuery{Kind: kind, Limit: p.Size, PageToken: p.Token})
	if err != nil {
		return nil, "", err
	}
	list := make([]api.StreamSummary, len(page.Streams))
	for i, s := range page.Streams {
		list[i] = summary(s)
	}
	return list, page.Next, nil
}

func (b backend) DeleteStream(ctx context.Context, name string) error {
	return b.n.directory.Delete(ctx, name)
}

func (b backend) Settings(_ context.Context, stream, branch string) (api.Settings, error) {
	st, err := b.n.directory.Resolve(stream, branch)
	if err != nil {
		return api.Settings{}, err
	}
	return settingsOf(st), nil
}

func settingsOf(st *branch.State) api.Settings {
	s := st.Branch.Settings
	return api.Settings{
		Type: hotbuffer.Type(s.Type), Compressed: s.Compressed, Partitions: st.Branch.View.Partitions, KeyFields: s.KeyFields,
		ArchiveInterval: s.ArchiveInterval, HotRetention: s.HotRetention,
		DatasetFormat: api.DatasetFormat(s.DatasetFormat), Consistency: s.Consistency,
		Partitioning: s.Partitioning, SortOrder: s.SortOrder, BloomFilters: s.BloomFilters,
	}
}

// patched returns s with what p sets.
func patched(s catalog.Settings, p api.SettingsPatch) catalog.Settings {
	change(&s.Type, (*catalog.StreamType)(p.Type))
	change(&s.Compressed, p.Compressed)
	change(&s.Partitions, p.Partitions)
	change(&s.KeyFields, p.KeyFields)
	change(&s.ArchiveInterval, p.ArchiveInterval)
	change(&s.HotRetention, p.HotRetention)
	change(&s.DatasetFormat, (*catalog.DatasetFormat)(p.DatasetFormat))
	change(&s.Consistency, p.Consistency)
	change(&s.Partitioning, p.Partitioning)
	change(&s.SortOrder, p.SortOrder)
	change(&s.BloomFilters, p.BloomFilters)
	return s
}

func change[T any](v, to *T) {
	if to != nil {
		*v = *to
	}
}

func (b backend) UpdateSettings(ctx context.Context, stream, branch string, p api.SettingsPatch) (api.Settings, error) {
	st, err := b.n.directory.UpdateSettings(ctx, stream, branch, func(s catalog.Settings) catalog.Settings { return patched(s, p) })
	if err != nil {
		return api.Settings{}, err
	}
	return settingsOf(st), nil
}

func (b backend) Reset(ctx context.Context, stream, branch string, s *schema.Schema, p api.SettingsPatch) (api.Branch, error) {
	st, err := b.n.directory.Reset(ctx, stream, branch, s, func(s catalog.Settings) catalog.Settings { return patched(s, p) })
	if err != nil {
		return api.Branch{}, err
	}
	return b.branch(ctx, st)
}

func (b backend) Producer(ctx context.Context, stream, branch, producer string) (api.ProducerState, error) {
	st, err := b.n.directory.Resolve(stream, branch)
	if err != nil {
		return api.ProducerState{}, err
	}
	p, ranges, err := b.n.log.Newest(ctx, st.Branch.View.ID, writer.ProducerID(producer, false))
	if err != nil {
		return api.ProducerState{}, fmt.Errorf("producer %q of %s: %w", producer, st.Name(), err)
	}
	return api.ProducerState{Epoch: p.Epoch, Sequence: p.Sequence, Ranges: ranges}, nil
}

// Read and Tail take the branch's consistency where the request has none.
func (b backend) Read(ctx context.Context, stream, branch string, q reader.Request) (*reader.Result, error) {
	return b.read(ctx, stream, branch, q, b.n.reader.Read)
}

func (b backend) Tail(ctx context.Context, stream, branch string, q reader.Request) (*reader.Result, error) {
	return b.read(ctx, stream, branch, q, b.n.reader.Tail)
}

func (b backend) read(ctx context.Context, stream, branch string, q reader.Request,
	read func(context.Context, reader.Target, reader.Request) (*reader.Result, error),
) (*reader.Result, error) {
	st, err := b.n.directory.Resolve(stream, branch)
	if errors.Is(err, record.ErrNotFound) {
		if table, ok := b.n.datasetTable(ctx, stream, branch); ok {
			out, err := read(ctx, reader.Target{Table: table}, q)
			if err != nil {
				return nil, fmt.Errorf("read dataset %s: %w", stream, err)
			}
			return out, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if st.Lost != nil {
		return nil, fmt.Errorf("read %s: %w", st.Name(), st.Lost)
	}
	if q.Consistency == "" {
		q.Consistency = st.Branch.Settings.Consistency
	}
	out, err := read(ctx, readTarget(st), q)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", st.Name(), err)
	}
	return out, nil
}

// datasetTable finds the table of a dataset without a stream, which the directory
// does not know.
func (n *Node) datasetTable(ctx context.Context, name, branch string) (table string, ok bool) {
	ns, short, err := catalog.ParseName(name)
	if err != nil {
		return "", false
	}
	s, b, err := n.catalog.Resolve(ctx, ns, short, branch)
	return b.TableUUID, err == nil && s.Kind == catalog.KindDataset
}

func (b backend) ArchiveNow(ctx context.Context, stream, branch string) (api.Archived, error) {
	st, err := b.n.directory.Resolve(stream, branch)
	if err != nil {
		return api.Archived{}, err
	}
	out, err := b.n.archiver.Archive(ctx, st.Branch.ID)
	if err != nil {
		return api.Archived{}, err
	}
	return api.Archived{SnapshotID: out.SnapshotID, Rows: out.Rows, Files: out.Files, Bytes: out.Bytes, Offsets: out.Archived, MetadataLocation: out.MetadataLocation}, nil
}

func (b backend) Offsets(ctx context.Context, stream, branch string) (api.Offsets, error) {
	st, err := b.n.directory.Resolve(stream, branch)
	if err != nil {
		return api.Offsets{}, err
	}
	out := api.Offsets{View: st.Branch.View.Number}
	if out.Archived, err = b.archived(ctx, st); err != nil {
		return api.Offsets{}, err
	}
	ends, err := b.n.log.Ends(st.Branch.View.ID)
	if err != nil {
		return api.Offsets{}, fmt.Errorf("offsets of %s: %w", st.Name(), err)
	}
	out.Start, out.End = ends.Start, ends.End
	out.Lag, _, err = b.lag(ctx, st, out.Archived, ends, 0)
	return out, err
}

// archived is how far the dataset says that the active view is archived.
func (b backend) archived(ctx context.Context, st *branch.State) (record.Offsets, error) {
	table, err := b.n.datasets.Load(ctx, st.Branch.TableUUID)
	if err != nil {
		return nil, fmt.Errorf("offsets of %s: %w", st.Name(), err)
	}
	m, err := table.Marker()
	if err != nil {
		return nil, fmt.Errorf("offsets of %s: %w", st.Name(), err)
	}
	out := make(record.Offsets, st.Branch.View.Partitions)
	if m != nil && m.View == st.Branch.View.ID {
		copy(out, m.Offsets)
	}
	return out, nil
}

// lag counts what is not archived; its age is that of the oldest such row, whose
// time is given if it is known (ms since 1970), and returned.
func (b backend) lag(ctx context.Context, st *branch.State, archived record.Offsets, ends hotbuffer.Ends, oldest int64) (api.Lag, int64, error) {
	lag := api.Lag{Rows: ends.End.RowsSince(archived)}
	if lag.Rows == 0 {
		return lag, 0, nil
	}
	found := int64(0)
	for i := 0; i < len(ends.End) && oldest == 0; i++ {
		p := record.Partition(i)
		if archived.At(p) >= ends.End.At(p) {
			continue
		}
		batches, err := b.n.log.Read(ctx, st.Branch.View.ID, p, archived.At(p), 1)
		if errors.Is(err, record.ErrOutOfRange) || errors.Is(err, record.ErrCorrupt) {
			continue // archived and released since we looked, or damaged, which the archiver tells
		}
		if err != nil {
			return lag, 0, fmt.Errorf("archive lag of %s: %w", st.Name(), err)
		}
		if len(batches) > 0 && (found == 0 || batches[0].Timestamp() < found) {
			found = batches[0].Timestamp()
		}
	}
	if oldest == 0 {
		oldest = found
	}
	if oldest > 0 {
		lag.Age = max(0, time.Since(time.UnixMilli(oldest)))
	}
	return lag, oldest, nil
}

type schemas struct{ n *Node }

func (s schemas) Schema(ctx context.Context, stream, branch string) (api.SchemaVersion, error) {
	st, err := s.n.directory.Resolve(stream, branch)
	if err != nil {
		return api.SchemaVersion{}, err
	}
	return s.version(ctx, st)
}

func (s schemas) version(ctx context.Context, st *branch.State) (api.SchemaVersion, error) {
	v := st.Branch.SchemaVersion
	out := api.SchemaVersion{Version: int32(v), Schema: st.Schema}
	list, err := s.n.catalog.SchemaVersions(ctx, st.Branch.ID, v+1, 1)
	if err == nil && len(list) == 1 {
		out.CreatedAt = list[0].Created
	}
	return out, err
}

// SchemaVersions pages backwards: a token is the version to begin below.
func (s schemas) SchemaVersions(ctx context.Context, stream, branch string, p api.Page) ([]api.SchemaVersion, string, error) {
	st, err := s.n.directory.Resolve(stream, branch)
	if err != nil {
		return nil, "", err
	}
	below, err := pageStart(p.Token, int64(st.Branch.SchemaVersion)+1)
	if err != nil {
		return nil, "", err
	}
	list, err := s.n.catalog.SchemaVersions(ctx, st.Branch.ID, int(below), p.Size)
	if err != nil {
		return nil, "", err
	}
	out := make([]api.SchemaVersion, len(list))
	for i, v := range list {
		sc, err := s.n.catalog.SchemaByID(ctx, v.ID)
		if err != nil {
			return nil, "", err
		}
		out[i] = api.SchemaVersion{Version: int32(v.Version), CreatedAt: v.Created, Schema: sc}
	}
	next := ""
	if n := len(list); n == p.Size && list[n-1].Version > 1 {
		next = strconv.Itoa(list[n-1].Version)
	}
	return out, next, nil
}

func (s schemas) Evolve(ctx context.Context, stream, branch string, proposed *schema.Schema) (api.SchemaVersion, error) {
	st, err := s.n.directory.Evolve(ctx, stream, branch, proposed)
	if err != nil {
		return api.SchemaVersion{}, err
	}
	return s.version(ctx, st)
}

// pageStart reads a page token that is a number from 1 to begin.
func pageStart(token string, begin int64) (int64, error) {
	if token == "" {
		return begin, nil
	}
	v, err := strconv.ParseInt(token, 10, 64)
	if err != nil || v < 1 || v > begin {
		return 0, fmt.Errorf("page token %.40q is none of this list; leave it out to begin: %w", strings.ToValidUTF8(token, "?"), record.ErrInvalid)
	}
	return v, nil
}
