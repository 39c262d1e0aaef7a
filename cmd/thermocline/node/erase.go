package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema/predicate"
)

// Erase takes rows out of all branches of a stream, or of a dataset without one:
//
//  1. Archive every branch, and release all that is archived from the hot buffer,
//     whatever holds it. A crash behind this leaves rows cold that were hot.
//  2. Erase them from the datasets, table by table (dataset.Erase).
//  3. Overwrite what was released in the log's files (disk.Log.Scrub).
//
// Each step can be repeated, and what a crash leaves of one is done by the next call.
func (m maintainer) Erase(ctx context.Context, stream string, q api.EraseRows) (api.Erasure, error) {
	var out api.Erasure
	where, err := predicate.Parse(q.Where)
	if err != nil {
		return out, err
	}
	ns, name, err := catalog.ParseName(stream)
	if err != nil {
		return out, err
	}
	s, _, err := m.n.catalog.Resolve(ctx, ns, name, catalog.MainBranch)
	if err != nil {
		return out, err
	}
	e := erasure{n: m.n, stream: s}
	branches, err := e.branches(ctx)
	if err != nil {
		return out, err
	}
	tracks := make([]*track, len(branches))
	for i, b := range branches {
		tracks[i] = m.n.upkeep.begin(b.ID, "erase", true)
		tracks[i].tell("archive", 0, 0, 0, 0)
	}
	err = e.run(ctx, q, where, tracks, &out)
	for _, t := range tracks {
		t.end(fmt.Sprintf("%d files of %d bytes deleted", out.DeletedFiles, out.DeletedBytes), err)
	}
	if err != nil {
		return out, fmt.Errorf("erase rows of %s: %w", s.FullName(), err)
	}
	return out, nil
}

// erasure is one call of Erase.
type erasure struct {
	n      *Node
	stream catalog.Stream
}

func (e *erasure) run(ctx context.Context, q api.EraseRows, where predicate.Expr, tracks []*track, out *api.Erasure) error {
	branches, err := e.branches(ctx)
	if err != nil {
		return err
	}
	if e.stream.Kind == catalog.KindStream {
		for _, b := range branches {
			got, err := e.n.archiver.Vacate(ctx, b.ID)
			if err != nil && !errors.Is(err, record.ErrNotFound) { // deleted meanwhile
				return fmt.Errorf("archive branch %s: %w", b.Name, err)
			}
			out.ArchivedRows += got.Rows
		}
	}
	got, err := e.n.datasets.Erase(ctx, dataset.EraseOptions{
		Where: where, Grace: q.Grace, DryRun: q.DryRun, Tables: e.tables, Trash: e.trash,
		Progress: func(p dataset.EraseProgress) {
			for _, t := range tracks {
				t.tell(p.Phase, int64(p.Files), int64(p.TotalFiles), p.Bytes, p.TotalBytes)
			}
		},
	})
	out.DeletedFiles, out.DeletedBytes, out.RemainingFiles, out.RemainingBytes = got.DeletedFiles, got.DeletedBytes, got.RemainingFiles, got.RemainingBytes
	names := map[string]string{}
	for _, b := range branches {
		names[b.TableUUID] = b.Name
	}
	for _, t := range got.Tables {
		out.Branches = append(out.Branches, api.ErasedBranch{
			Branch: names[t.ID], Examined: t.Examined, Matched: t.Matched, Rows: t.Rows, Bytes: t.Bytes, BytesAfter: t.BytesAfter, Snapshots: t.Snapshots,
		})
	}
	if err != nil || q.DryRun {
		return err
	}
	// Last: rows that were hot when the call began are released by now, whichever
	// archive did it.
	for _, t := range tracks {
		t.tell("hot log", 0, 0, 0, 0)
	}
	log, err := e.n.log.Scrub(ctx)
	out.LogSegments, out.LogRemoved, out.LogBytes, out.LogDamaged = log.Segments, log.Removed, log.Bytes, log.Damaged
	return err
}

// branches lists all branches of the stream.
func (e *erasure) branches(ctx context.Context) ([]catalog.Branch, error) {
	var all []catalog.Branch
	for after := catalog.BranchID(0); ; {
		page, err := e.n.catalog.Branches(ctx, e.stream.ID, after, catalog.MaxPage)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < catalog.MaxPage {
			return all, nil
		}
		after = page[len(page)-1].ID
	}
}

// tables are those of all branches, main first, whose schema says what columns
// are called.
func (e *erasure) tables(ctx context.Context) ([]dataset.EraseTable, error) {
	branches, err := e.branches(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]dataset.EraseTable, len(branches))
	for i, b := range branches {
		out[i] = dataset.EraseTable{ID: b.TableUUID}
		if e.stream.Kind == catalog.KindStream {
			if st, err := e.n.directory.ByID(b.ID); err == nil {
				out[i].Schema = st.Schema
			}
		}
	}
	return out, nil
}

// trash are the tables of deleted branches whose files are not all gone.
func (e *erasure) trash(ctx context.Context) ([]string, error) {
	due, err := e.n.catalog.TrashDue(ctx, time.Now().Add(1000*time.Hour), catalog.MaxPage)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, t := range due {
		if t.Stream == e.stream.ID {
			out = append(out, t.TableUUID)
		}
	}
	return out, nil
}
