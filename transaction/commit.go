package transaction

import (
	"context"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// transactionKey names the transaction in the summary of its snapshot.
const transactionKey = "thermocline.transaction"

// Commit makes a transaction visible, all of it at once. A second call finds it
// committed. record.ErrFenced if it is aborted; record.ErrConflict if a file to be
// removed is gone, record.ErrInvalid if a filter matches a part of a file: then
// it stays open.
//
// The table's pointer and the transaction's state are one step in the catalog: a
// crash before leaves the transaction open and files of metadata that nothing
// names, one behind it nothing.
func (t *Transactions) Commit(ctx context.Context, r Ref, id string) (catalog.Transaction, error) {
	fail := func(err error) (catalog.Transaction, error) {
		return catalog.Transaction{}, failed("commit a transaction on", r, err)
	}
	b, tr, err := t.at(ctx, r, id)
	if err != nil {
		return fail(err)
	}
	switch tr.State {
	case catalog.TransactionCommitted:
		return tr, nil
	case catalog.TransactionAborted:
		return fail(fmt.Errorf("transaction %s is %s; begin another one: %w", id, tr.State, record.ErrFenced))
	}
	for try := 1; ; try++ {
		done, err := t.commit(ctx, b, tr)
		if err == nil {
			return done, nil
		}
		if !errors.Is(err, record.ErrFenced) {
			return fail(err)
		}
		// Another call committed or aborted it, or a file came in.
		now, gerr := t.catalog.Transaction(ctx, id)
		switch {
		case gerr == nil && now.State == catalog.TransactionCommitted:
			return now, nil
		case gerr != nil || now.State != catalog.TransactionOpen || try == maxCommits:
			return fail(errors.Join(err, gerr))
		}
	}
}

// maxCommits is how often a commit is tried while files come in.
const maxCommits = 8

func (t *Transactions) commit(ctx context.Context, b catalog.Branch, tr catalog.Transaction) (catalog.Transaction, error) {
	id := tr.ID
	c, err := t.change(ctx, b, tr)
	if err != nil {
		return tr, err
	}
	files := len(c.Add)
	if tr.Type == catalog.TransactionDelete && tr.Filter == "" {
		files = len(c.Remove)
	}
	c.ID, c.Summary = id, map[string]string{transactionKey: id}
	c.Swap = func(ctx context.Context, from, to string, snapshot int64) error {
		return t.catalog.CommitTransaction(ctx, id, b.TableUUID, from, to, snapshot, files)
	}
	table, err := t.datasets.Commit(ctx, b.TableUUID, c)
	if err != nil {
		return tr, err
	}
	if tr, err = t.catalog.Transaction(ctx, id); err != nil || tr.State == catalog.TransactionCommitted {
		return tr, err
	}
	// There was nothing to change.
	at := table.MetadataLocation()
	if err := t.catalog.CommitTransaction(ctx, id, b.TableUUID, at, at, 0, files); err != nil {
		return tr, err
	}
	return t.catalog.Transaction(ctx, id)
}

// change is what the transaction does to the table.
func (t *Transactions) change(ctx context.Context, b catalog.Branch, tr catalog.Transaction) (dataset.Commit, error) {
	table, err := t.datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return dataset.Commit{}, err
	}
	if tr.Filter != "" {
		s, where, err := t.filter(ctx, b, tr.Filter)
		if err != nil {
			return dataset.Commit{}, err
		}
		// Files that come in between are not looked at: they came after the DELETE.
		paths, err := table.Covered(ctx, s, where)
		return dataset.Commit{Base: table, Remove: paths}, err
	}
	c := dataset.Commit{RemoveAll: tr.Type == catalog.TransactionSnapshot}
	for after := ""; ; {
		page, err := t.catalog.StagedFiles(ctx, tr.ID, after, catalog.MaxPage)
		if err != nil {
			return c, err
		}
		for _, f := range page {
			if after = f.Name; tr.Type == catalog.TransactionDelete {
				c.Remove = append(c.Remove, f.Location)
				continue
			}
			file, err := table.StagedFile(f.Body)
			if err != nil {
				return c, fmt.Errorf("file %s: %w", f.Name, err)
			}
			c.Add = append(c.Add, file)
		}
		if len(page) < catalog.MaxPage {
			return c, nil
		}
	}
}

// Rollback makes an older snapshot of a dataset the newest again; see
// dataset.Rollback.
func (t *Transactions) Rollback(ctx context.Context, r Ref, snapshot int64) (*dataset.Table, error) {
	return t.move(ctx, "roll back", r, func(b catalog.Branch, swap dataset.Swap) (*dataset.Table, error) {
		return t.datasets.Rollback(ctx, b.TableUUID, snapshot, swap)
	})
}

// CherryPick adds the rows of an append that the branch has left behind; see
// dataset.CherryPick.
func (t *Transactions) CherryPick(ctx context.Context, r Ref, snapshot int64) (*dataset.Table, error) {
	return t.move(ctx, "cherry-pick into", r, func(b catalog.Branch, swap dataset.Swap) (*dataset.Table, error) {
		return t.datasets.CherryPick(ctx, b.TableUUID, snapshot, swap)
	})
}

func (t *Transactions) move(ctx context.Context, what string, r Ref, do func(catalog.Branch, dataset.Swap) (*dataset.Table, error)) (*dataset.Table, error) {
	b, err := t.find(ctx, r)
	if err != nil {
		return nil, failed(what, r, err)
	}
	table, err := do(b, func(ctx context.Context, from, to string, _ int64) error {
		return t.catalog.SwapDatasetPointer(ctx, b.TableUUID, from, to)
	})
	if err != nil {
		return nil, failed(what, r, err)
	}
	return table, nil
}
