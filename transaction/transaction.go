// Package transaction changes datasets without a stream: rows and files are
// uploaded into an open transaction and become visible together, with its commit,
// or never.
//
//	begin ── upload, upload, … ──┬─ commit   the table's pointer and the transaction move in one step
//	                             └─ abort    its files are collected after their grace
//
// A file is durable before the catalog knows of it, and nobody deletes one that the
// catalog knows. So a crash anywhere leaves the transaction open, with the uploads
// that were answered, and perhaps a file that nothing names.
//
// It knows no HTTP, and nothing of streams: their rows come by publishing.
package transaction

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/predicate"
)

// Ref names a branch of a dataset.
type Ref struct {
	Dataset string // "name" or "namespace.name"
	Branch  string
}

func (r Ref) String() string {
	if r.Branch == catalog.MainBranch {
		return r.Dataset
	}
	return r.Dataset + "@" + r.Branch
}

// Decode turns a body of rows into stored rows (Confluent header and Avro datum) of
// schema s, and hands them to use. Its errors are of the request.
type Decode func(ctx context.Context, s *schema.Schema, use func(rows *record.Rows) error) error

// Upload is one file, or the rows of one.
type Upload struct {
	// Name, if not empty, makes a repetition safe: the transaction takes one
	// upload of each name.
	Name string
	// Rows are decoded and written in the branch's format; or Parquet is stored as
	// it is. Exactly one of both.
	Rows    Decode
	Parquet io.Reader
}

// File is an upload that the transaction has taken.
type File struct {
	Name        string
	Location    string // empty: no rows, and no file
	Rows, Bytes int64
	// Duplicate: an earlier upload of the name; this one was dropped.
	Duplicate bool
}

// Begin is a transaction to be opened.
type Begin struct {
	Type catalog.TransactionType
	// Filter says which rows a DELETE removes: files whose rows all match. Empty:
	// those of the files that Remove names.
	Filter string
	// Key, if not empty, makes a repetition safe: it finds the transaction that the
	// first call opened.
	Key string
}

// Transactions works on the datasets of a catalog. Safe for concurrent use.
type Transactions struct {
	catalog  *catalog.Catalog
	datasets *dataset.Datasets
}

// New returns the transactions of a catalog's datasets.
func New(c *catalog.Catalog, d *dataset.Datasets) *Transactions {
	return &Transactions{catalog: c, datasets: d}
}

// find returns the branch of a dataset; a stream's is record.ErrInvalid.
func (t *Transactions) find(ctx context.Context, r Ref) (catalog.Branch, error) {
	ns, name, err := catalog.ParseName(r.Dataset)
	if err != nil {
		return catalog.Branch{}, err
	}
	s, b, err := t.catalog.Resolve(ctx, ns, name, r.Branch)
	if err == nil && s.Kind != catalog.KindDataset {
		err = fmt.Errorf("it is the dataset of a stream; publish rows to that, or change the dataset with an engine: %w", record.ErrInvalid)
	}
	return b, err
}

// at finds a transaction of the branch.
func (t *Transactions) at(ctx context.Context, r Ref, id string) (catalog.Branch, catalog.Transaction, error) {
	b, err := t.find(ctx, r)
	if err != nil {
		return b, catalog.Transaction{}, err
	}
	tr, err := t.catalog.Transaction(ctx, id)
	if err == nil && tr.Branch != b.ID {
		err = fmt.Errorf("transaction %s is of another branch: %w", id, record.ErrNotFound)
	}
	return b, tr, err
}

// failed names operation and object. That a transaction has ended is a conflict to
// whoever asked.
func failed(what string, r Ref, err error) error {
	if errors.Is(err, record.ErrFenced) {
		return fmt.Errorf("%s %s: %s: %w", what, r, err.Error(), record.ErrConflict)
	}
	return fmt.Errorf("%s %s: %w", what, r, err)
}

// Begin opens a transaction. record.ErrConflict while another one is open on the
// branch.
func (t *Transactions) Begin(ctx context.Context, r Ref, n Begin) (catalog.Transaction, error) {
	b, err := t.find(ctx, r)
	if err != nil {
		return catalog.Transaction{}, failed("begin a transaction on", r, err)
	}
	if n.Filter != "" {
		if _, _, err := t.filter(ctx, b, n.Filter); err != nil {
			return catalog.Transaction{}, failed("begin a transaction on", r, err)
		}
	}
	tr, err := t.catalog.BeginTransaction(ctx, catalog.Transaction{ID: keyed(b, n.Key), Branch: b.ID, Type: n.Type, Filter: n.Filter})
	if err != nil {
		return tr, failed("begin a transaction on", r, err)
	}
	return tr, nil
}

// keyed is the id of a transaction: of the same key on the same branch the same.
func keyed(b catalog.Branch, key string) string {
	if key == "" {
		return uuid.NewString()
	}
	return uuid.NewSHA1(uuid.MustParse(b.TableUUID), []byte(key)).String()
}

// filter parses a filter against the schema that a table has now.
func (t *Transactions) filter(ctx context.Context, b catalog.Branch, text string) (*schema.Schema, *predicate.Bound, error) {
	table, err := t.datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return nil, nil, err
	}
	s, err := schema.FromIceberg(table.Schema())
	if err != nil {
		return nil, nil, err
	}
	e, err := predicate.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	where, err := e.Bind(s)
	return s, where, err
}

// Get returns a transaction.
func (t *Transactions) Get(ctx context.Context, r Ref, id string) (catalog.Transaction, error) {
	_, tr, err := t.at(ctx, r, id)
	if err != nil {
		return tr, failed("transaction on", r, err)
	}
	return tr, nil
}

// List returns transactions of a branch, newest first.
func (t *Transactions) List(ctx context.Context, r Ref, q catalog.TransactionQuery) ([]catalog.Transaction, error) {
	b, err := t.find(ctx, r)
	if err != nil {
		return nil, failed("list transactions on", r, err)
	}
	q.Branch = b.ID
	return t.catalog.Transactions(ctx, q)
}

// Remove names live files that a DELETE takes away.
func (t *Transactions) Remove(ctx context.Context, r Ref, id string, paths []string) (catalog.Transaction, error) {
	fail := func(err error) (catalog.Transaction, error) {
		return catalog.Transaction{}, failed("name files to remove from", r, err)
	}
	b, tr, err := t.at(ctx, r, id)
	if err != nil {
		return fail(err)
	}
	if tr.Type != catalog.TransactionDelete || tr.Filter != "" {
		return fail(fmt.Errorf("only a transaction of type %s without a filter takes names of files: %w", catalog.TransactionDelete, record.ErrInvalid))
	}
	table, err := t.datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return fail(err)
	}
	live := map[string]dataset.FileInfo{}
	for f, err := range table.Files(ctx, 0) {
		if err != nil {
			return fail(err)
		}
		live[f.Path] = f
	}
	for _, p := range paths {
		f, ok := live[p]
		if !ok {
			return fail(fmt.Errorf("%.200q is no file of the dataset's newest snapshot; list its files: %w", p, record.ErrNotFound))
		}
		name := uuid.NewSHA1(uuid.NameSpaceURL, []byte(p)).String()
		if _, err := t.catalog.StageFile(ctx, id, catalog.StagedFile{Name: name, Location: p, Rows: f.Rows, Bytes: f.Bytes, Body: []byte("{}")}); err != nil {
			return fail(err)
		}
	}
	return t.Get(ctx, r, id)
}

// Abort ends a transaction: nothing of it was or will be visible. Idempotent;
// record.ErrConflict if it is committed.
func (t *Transactions) Abort(ctx context.Context, r Ref, id string) (catalog.Transaction, error) {
	_, _, err := t.at(ctx, r, id)
	if err != nil {
		return catalog.Transaction{}, failed("abort a transaction on", r, err)
	}
	tr, err := t.catalog.AbortTransaction(ctx, id)
	if err != nil {
		return tr, failed("abort a transaction on", r, err)
	}
	return tr, nil
}

// Once is a transaction of one upload. With a Key a repetition is safe, and finds
// the first one's outcome.
func (t *Transactions) Once(ctx context.Context, r Ref, n Begin, up Upload) (catalog.Transaction, error) {
	fail := func(err error) (catalog.Transaction, error) {
		return catalog.Transaction{}, failed("upload to", r, err)
	}
	b, err := t.find(ctx, r)
	if err != nil {
		return fail(err)
	}
	if n.Type == catalog.TransactionDelete {
		return fail(fmt.Errorf("a %s takes no rows: %w", n.Type, record.ErrInvalid))
	}
	if n.Key != "" {
		// Before the body is read: it may be the second time.
		tr, err := t.catalog.Transaction(ctx, keyed(b, n.Key))
		if err == nil && tr.State == catalog.TransactionCommitted {
			return tr, nil
		}
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			return fail(err)
		}
	}
	// The upload comes first: nobody else waits for a slow one.
	f, err := t.write(ctx, b, up)
	if err != nil {
		return fail(err)
	}
	tr, err := t.catalog.BeginTransaction(ctx, catalog.Transaction{ID: keyed(b, n.Key), Branch: b.ID, Type: n.Type})
	if err == nil && tr.State == catalog.TransactionOpen {
		_, err = t.stage(ctx, tr.ID, "once", f)
	} else if f != nil {
		t.datasets.Discard(context.WithoutCancel(ctx), *f)
	}
	if err != nil {
		return fail(err)
	}
	done, err := t.Commit(ctx, r, tr.ID)
	if err == nil || errors.Is(err, dataset.ErrOutcomeUnknown) || errors.Is(err, catalog.ErrOutcomeUnknown) {
		return done, err
	}
	// Nobody else would end it. A crash before leaves it open.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if ended, aerr := t.catalog.AbortTransaction(last, tr.ID); ended.State == catalog.TransactionCommitted {
		return ended, nil
	} else if aerr != nil {
		err = errors.Join(err, aerr)
	}
	return done, err
}

// endTime bounds the end of a transaction whose caller has gone.
const endTime = 10 * time.Second
