package dataset

import (
	"bytes"
	"context"
	"fmt"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/thermocline/thermocline/record"
)

// allEntries reads a manifest with the entries of files that a commit removed:
// they have bounds as well.
func (d *Datasets) allEntries(ctx context.Context, m iceberg.ManifestFile) ([]iceberg.ManifestEntry, error) {
	data, err := d.readMeta(ctx, m.FilePath())
	if err != nil {
		return nil, err
	}
	entries, err := iceberg.ReadManifest(m, bytes.NewReader(data), false)
	if err != nil {
		return nil, fmt.Errorf("dataset: manifest %s: %w: %w", m.FilePath(), err, record.ErrCorrupt)
	}
	return entries, nil
}

// eachManifest visits every manifest of the retained snapshots, each once.
func (t *Table) eachManifest(ctx context.Context, visit func(*table.Snapshot, iceberg.ManifestFile) error) error {
	seen := map[string]bool{}
	for _, s := range t.meta.Snapshots() {
		manifests, err := t.d.readManifests(ctx, &s)
		if err != nil {
			return err
		}
		for _, m := range manifests {
			if seen[m.FilePath()] {
				continue
			}
			seen[m.FilePath()] = true
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := visit(&s, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// examine looks at every data file that it has not looked at, and rewrites those
// with matching rows. A crash leaves new files that nothing names.
func (e *eraser) examine(ctx context.Context) error {
	var todo []look
	e.live = map[string]look{}
	for _, t := range e.tables {
		err := t.eachManifest(ctx, func(_ *table.Snapshot, m iceberg.ManifestFile) error {
			entries, err := e.d.readEntries(ctx, m)
			if err != nil {
				return err
			}
			for _, entry := range entries {
				f := entry.DataFile()
				switch {
				case f.ContentType() == iceberg.EntryContentEqDeletes:
					return fmt.Errorf("table %s has equality deletes (%s), whose values are not read; rewrite the table's data files in the engine that wrote them: %w", t.id, f.FilePath(), record.ErrInvalid)
				case f.ContentType() == iceberg.EntryContentPosDeletes || e.live[f.FilePath()].t != nil:
				default:
					e.live[f.FilePath()] = look{t, entry}
					if e.files[f.FilePath()] == nil {
						todo = append(todo, look{t, entry})
						e.p.TotalBytes += f.FileSizeBytes()
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	e.p.TotalFiles += len(todo)
	for _, l := range todo {
		if err := e.examineFile(ctx, l); err != nil {
			return fmt.Errorf("%s: %w", l.entry.DataFile().FilePath(), err)
		}
		e.p.Files++
		e.p.Bytes += l.entry.DataFile().FileSizeBytes()
	}
	return nil
}

// look is a live data file and a table that names it.
type look struct {
	t     *Table
	entry iceberg.ManifestEntry
}

func (e *eraser) examineFile(ctx context.Context, l look) error {
	f := &erasedFile{old: l.entry.DataFile()}
	if e.files[f.old.FilePath()] != nil {
		return nil
	}
	e.tell("examine")
	positions, err := e.matches(ctx, l.t, l.entry)
	if err != nil {
		return err
	}
	if f.rows = int64(len(positions)); f.rows > 0 {
		f.positions = positions
		if !e.o.DryRun {
			if f.new, err = e.replacement(ctx, l, positions); err != nil {
				return err
			}
		}
	}
	e.files[f.old.FilePath()] = f
	return nil
}

// replacement is the new file, nil if nothing is left. An erasure that was cut
// short may have put one into another table already: tables that shared the old
// file then share the new one.
func (e *eraser) replacement(ctx context.Context, l look, positions []int64) (iceberg.DataFile, error) {
	old := l.entry.DataFile()
	for _, n := range e.earlier {
		there, ok := e.live[n.Replaced[old.FilePath()]]
		if !ok || there.entry.DataFile().Count() != old.Count()-int64(len(positions)) {
			continue
		}
		if err := e.examineFile(ctx, there); err != nil {
			return nil, err
		}
		// It has rows of the old file only, none that match, and as many as are to be left.
		if f := there.entry.DataFile(); !e.files[f.FilePath()].changed() {
			return f, nil
		}
	}
	e.tell("rewrite")
	return e.without(ctx, l.t, l.entry, positions)
}

// count tells what was found, table by table.
func (e *eraser) count(ctx context.Context) ([]TableErasure, error) {
	out := make([]TableErasure, len(e.tables))
	for i, t := range e.tables {
		out[i].ID = t.id
		counted := map[string]bool{}
		touched := map[string]bool{} // manifests
		for _, s := range t.meta.Snapshots() {
			manifests, err := t.d.readManifests(ctx, &s)
			if err != nil {
				return nil, err
			}
			hit := false
			for _, m := range manifests {
				if was, known := touched[m.FilePath()]; known {
					hit = hit || was
					continue
				}
				entries, err := t.d.readEntries(ctx, m)
				if err != nil {
					return nil, err
				}
				any := false
				for _, entry := range entries {
					f := e.files[entry.DataFile().FilePath()]
					if f == nil {
						continue
					}
					any = any || f.changed()
					if counted[f.old.FilePath()] {
						continue
					}
					counted[f.old.FilePath()] = true
					out[i].Examined++
					if f.changed() {
						out[i].Matched++
						out[i].Rows += f.rows
						out[i].Bytes += f.old.FileSizeBytes()
						if f.new != nil {
							out[i].BytesAfter += f.new.FileSizeBytes()
						}
					}
				}
				touched[m.FilePath()] = any
				hit = hit || any
			}
			if hit {
				out[i].Snapshots++
			}
		}
	}
	return out, nil
}
