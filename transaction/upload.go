package transaction

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// batchRows and batchBytes bound what is held as columns at a time.
const (
	batchRows  = 32 << 10
	batchBytes = 16 << 20
)

// Upload adds a file to an open transaction; it is durable when it returns nil, and
// invisible. record.ErrFenced if the transaction has ended.
func (t *Transactions) Upload(ctx context.Context, r Ref, id string, up Upload) (File, error) {
	fail := func(err error) (File, error) { return File{}, failed("upload to", r, err) }
	b, tr, err := t.at(ctx, r, id)
	if err != nil {
		return fail(err)
	}
	if tr.State != catalog.TransactionOpen {
		return fail(fmt.Errorf("transaction %s is %s; begin another one: %w", id, tr.State, record.ErrFenced))
	}
	if tr.Type == catalog.TransactionDelete {
		return fail(fmt.Errorf("a %s takes no rows; begin a transaction of another type: %w", tr.Type, record.ErrInvalid))
	}
	if up.Name != "" {
		if err := catalog.ValidateName("file name", up.Name); err != nil {
			return fail(err)
		}
		staged, err := t.catalog.StagedFile(ctx, id, up.Name)
		if err == nil {
			return fileOf(staged, true), nil
		}
		if !errors.Is(err, record.ErrNotFound) {
			return fail(err)
		}
	} else {
		up.Name = uuid.NewString()
	}
	f, err := t.write(ctx, b, up)
	if err != nil {
		return fail(err)
	}
	out, err := t.stage(ctx, id, up.Name, f)
	if err != nil {
		return fail(err)
	}
	return out, nil
}

func fileOf(f catalog.StagedFile, duplicate bool) File {
	return File{Name: f.Name, Location: f.Location, Rows: f.Rows, Bytes: f.Bytes, Duplicate: duplicate}
}

// write makes the upload's file durable; nil if it has no rows. Nothing names it
// yet.
func (t *Transactions) write(ctx context.Context, b catalog.Branch, up Upload) (*dataset.DataFile, error) {
	table, err := t.datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return nil, err
	}
	if up.Parquet != nil {
		f, err := table.ImportParquet(ctx, up.Parquet)
		if err != nil {
			return nil, err
		}
		return &f, nil
	}
	s, err := schema.FromIceberg(table.Schema())
	if err != nil {
		return nil, fmt.Errorf("the dataset has columns that rows cannot be written to; upload Parquet files made by an engine, or let it append: %w", err)
	}
	var f *dataset.DataFile
	err = up.Rows(ctx, s, func(rows *record.Rows) error {
		if rows.Len() == 0 {
			return nil
		}
		done, err := writeRows(ctx, table, s, dataset.Format(b.Settings.DatasetFormat), rows)
		f = &done
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// writeRows writes decoded rows as one data file.
func writeRows(ctx context.Context, table *dataset.Table, s *schema.Schema, format dataset.Format, rows *record.Rows) (dataset.DataFile, error) {
	program, err := schema.CompileAvroToArrow(s, s)
	if err != nil {
		return dataset.DataFile{}, err
	}
	w, err := table.NewRowWriter(ctx, s, format)
	if err != nil {
		return dataset.DataFile{}, err
	}
	defer w.Abort()
	columns := schema.NewBuilder(s, memory.DefaultAllocator)
	defer columns.Release()
	flush := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := columns.NewBatch()
		defer b.Release()
		return w.Write(b)
	}
	for i := range rows.Len() {
		_, value := rows.Row(i)
		_, datum, err := schema.SplitHeader(value)
		if err == nil {
			err = program.Append(columns, datum)
		}
		if err == nil && (columns.Len() >= batchRows || columns.Bytes() >= batchBytes) {
			err = flush()
		}
		if err != nil {
			return dataset.DataFile{}, err
		}
	}
	if columns.Len() > 0 {
		if err := flush(); err != nil {
			return dataset.DataFile{}, err
		}
	}
	return w.Close()
}

// stage tells the catalog of a durable file. When it is not taken the file is
// deleted, unless the outcome is unknown: then it is the catalog's, or an orphan.
func (t *Transactions) stage(ctx context.Context, id, name string, f *dataset.DataFile) (File, error) {
	if f == nil {
		return File{Name: name}, nil
	}
	body, err := json.Marshal(f)
	if err != nil {
		return File{}, err
	}
	staged, err := t.catalog.StageFile(ctx, id, catalog.StagedFile{Name: name, Location: f.Path(), Rows: f.Rows(), Bytes: f.Bytes(), Body: body})
	duplicate := err == nil && staged.Location != f.Path()
	if duplicate || err != nil && !errors.Is(err, catalog.ErrOutcomeUnknown) {
		t.datasets.Discard(context.WithoutCancel(ctx), *f)
	}
	if err != nil {
		return File{}, err
	}
	return fileOf(staged, duplicate), nil
}
