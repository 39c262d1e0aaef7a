package node

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

type datasets struct{ n *Node }

func (d datasets) load(ctx context.Context, stream, branch string) (*table, error) {
	st, err := d.n.find(ctx, stream, branch)
	if err != nil {
		return nil, err
	}
	t, err := d.n.datasets.Load(ctx, st.Branch.TableUUID)
	if err != nil {
		return nil, fmt.Errorf("dataset of %s: %w", st.Name(), err)
	}
	return &table{st, t}, nil
}

type table struct {
	*branch.State
	*dataset.Table
}

// Snapshots pages backwards by sequence number: a token is the one to begin
// below.
func (d datasets) Snapshots(ctx context.Context, stream, branch string, p api.Page) (api.SnapshotPage, error) {
	b, err := d.load(ctx, stream, branch)
	if err != nil {
		return api.SnapshotPage{}, err
	}
	below, err := pageStart(p.Token, 1<<62)
	if err != nil {
		return api.SnapshotPage{}, err
	}
	all := b.Table.Snapshots()
	out := api.SnapshotPage{MetadataLocation: b.MetadataLocation()}
	for i := len(all) - 1; i >= 0; i-- {
		s := all[i]
		if s.Sequence >= below {
			continue
		}
		if len(out.Snapshots) == p.Size {
			out.Next = strconv.FormatInt(all[i+1].Sequence, 10)
			break
		}
		a := api.Snapshot{
			ID: s.ID, ParentID: s.Parent, SequenceNumber: s.Sequence, CommittedAt: s.Time, Operation: s.Operation,
			AddedRows: s.AddedRows, AddedFiles: s.AddedFiles, TotalRows: s.TotalRows, TotalFiles: s.TotalFiles, TotalBytes: s.TotalBytes,
			Summary: s.Summary,
		}
		if s.SchemaID >= 0 {
			a.SchemaID = &s.SchemaID
		}
		out.Snapshots = append(out.Snapshots, a)
	}
	return out, nil
}

// DataFiles pages through the files of one snapshot in scan order; a token is
// "snapshot.index".
func (d datasets) DataFiles(ctx context.Context, stream, branch string, snapshot int64, p api.Page) (api.DataFilePage, error) {
	b, err := d.load(ctx, stream, branch)
	if err != nil {
		return api.DataFilePage{}, err
	}
	skip := 0
	if p.Token != "" {
		id, at, ok := strings.Cut(p.Token, ".")
		s, err1 := strconv.ParseInt(id, 10, 64)
		i, err2 := strconv.Atoi(at)
		if !ok || err1 != nil || err2 != nil || i < 0 || (snapshot != 0 && s != snapshot) {
			return api.DataFilePage{}, fmt.Errorf("page token %.40q is none of this list; leave it out to begin: %w", strings.ToValidUTF8(p.Token, "?"), record.ErrInvalid)
		}
		snapshot, skip = s, i
	}
	if snapshot == 0 {
		head, ok := b.Table.Head()
		if !ok {
			return api.DataFilePage{}, nil
		}
		snapshot = head.ID
	}
	out := api.DataFilePage{SnapshotID: snapshot}
	i := 0
	for f, err := range b.Table.Files(ctx, snapshot) {
		if err != nil {
			return api.DataFilePage{}, fmt.Errorf("files of %s: %w", b.Name(), err)
		}
		if i++; i <= skip {
			continue
		}
		if len(out.Files) == p.Size {
			out.Next = fmt.Sprintf("%d.%d", snapshot, i-1)
			break
		}
		out.Files = append(out.Files, api.DataFile{Path: f.Path, Format: f.Format, Rows: f.Rows, Bytes: f.Bytes, SnapshotID: f.Snapshot, SequenceNumber: f.Sequence})
	}
	return out, nil
}
