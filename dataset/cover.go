package dataset

import (
	"context"
	"fmt"

	"github.com/apache/iceberg-go"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// Covered returns the live data files of the head whose rows all match where,
// which is bound to s. Files that statistics do not decide are read. ErrInvalid if
// a file has rows that match and rows that do not; the error names it.
func (t *Table) Covered(ctx context.Context, s *schema.Schema, where *predicate.Bound) (paths []string, err error) {
	live, err := t.liveFiles(ctx, 0)
	if err != nil {
		return nil, err
	}
	columns := &schema.Schema{}
	for _, c := range where.Columns() {
		// Whole columns, for parts of structs too: they are found by name.
		for i := range s.Fields {
			if s.Fields[i].ID == c.ID || holds(&s.Fields[i].Type, c.ID) {
				columns.Fields = appendOnce(columns.Fields, s.Fields[i])
			}
		}
	}
	for _, e := range live.data {
		all, matching, err := t.count(ctx, columns, where, fileSet{data: []iceberg.ManifestEntry{e}, deletes: live.deletes})
		if err != nil {
			return nil, err
		}
		switch {
		case matching == 0:
		case matching == all:
			paths = append(paths, e.DataFile().FilePath())
		default:
			return nil, fmt.Errorf("dataset: %d of %d rows of %s match; only whole files can be removed, rows take an engine's DELETE: %w", matching, all, e.DataFile().FilePath(), record.ErrInvalid)
		}
	}
	return paths, nil
}

func appendOnce(fields []schema.Field, f schema.Field) []schema.Field {
	for i := range fields {
		if fields[i].ID == f.ID {
			return fields
		}
	}
	return append(fields, f)
}

func holds(t *schema.Type, id int) bool {
	for i := range t.Fields {
		if t.Fields[i].ID == id || holds(&t.Fields[i].Type, id) {
			return true
		}
	}
	return false
}

// count counts the rows of files, and those that match; none of them if statistics
// say that none can.
func (t *Table) count(ctx context.Context, columns *schema.Schema, where *predicate.Bound, files fileSet) (all, matching int64, err error) {
	var sel predicate.Selection
	o := ScanOptions{Schema: columns}
	may := scanner{t: t, o: placedScan{ScanOptions: ScanOptions{Filter: where}}, schema: columns, filterColumns: map[int]*predicate.Column{}, filled: map[int]bool{}}
	filledFields(may.filled, columns.Fields)
	for _, c := range where.Columns() {
		may.filterColumns[c.ID] = &c
	}
	if !may.fileMayMatch(files.data[0].DataFile()) {
		return files.data[0].DataFile().Count(), 0, nil
	}
	for b, err := range t.stream(ctx, o, func(context.Context) (fileSet, error) { return files, nil }) {
		if err != nil {
			return 0, 0, err
		}
		if err := where.Filter(b, &sel); err != nil {
			return 0, 0, err
		}
		all += b.NumRows()
		matching += int64(sel.Count())
	}
	return all, matching, nil
}
