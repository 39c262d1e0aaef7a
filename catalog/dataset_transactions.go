package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/record"
)

// TransactionType says what a transaction does to a dataset.
type TransactionType string

const (
	TransactionAppend   TransactionType = "APPEND"   // adds its files
	TransactionSnapshot TransactionType = "SNAPSHOT" // puts its files in the place of all others
	TransactionDelete   TransactionType = "DELETE"   // removes files
)

// TransactionState is OPEN, then COMMITTED or ABORTED for good.
type TransactionState string

const (
	TransactionOpen      TransactionState = "OPEN"
	TransactionCommitted TransactionState = "COMMITTED"
	TransactionAborted   TransactionState = "ABORTED"
)

// Limits of a transaction.
const (
	MaxTransactionFiles = 10_000
	// MaxStagedBytes bounds the description of one file.
	MaxStagedBytes = 1 << 20
	// MaxFilterBytes bounds the filter of a DELETE.
	MaxFilterBytes = 64 << 10
)

// Transaction is a change of a branch's table that becomes visible as a whole.
type Transaction struct {
	ID     string // a UUID
	Branch BranchID
	Type   TransactionType
	State  TransactionState
	// Filter says which rows a DELETE removes; empty: those of the files named.
	Filter string
	// Files, Rows and Bytes count what it holds or, when it has ended, held.
	Files       int
	Rows, Bytes int64
	// Snapshot that it committed; 0: none, because it changed nothing.
	Snapshot int64
	Created  time.Time
	Used     time.Time // the last time that something was added
	Ended    time.Time // zero while it is OPEN
}

// StagedFile is a file of an OPEN transaction. That of a DELETE is a live one, to
// be removed.
type StagedFile struct {
	// Name is the uploader's, unique in the transaction: a repeated upload is
	// found by it.
	Name     string
	Location string
	Rows     int64
	Bytes    int64
	// Body describes the file in the dataset's own form.
	Body []byte
}

const transactionColumns = `t.id, t.branch_id, t.type, t.state, t.filter, t.files, t.row_count, t.bytes, t.snapshot_id, t.created_ms, t.used_ms, t.ended_ms`

func scanTransaction(row scanner) (Transaction, error) {
	var t Transaction
	var created, used, ended int64
	err := row.Scan(&t.ID, &t.Branch, &t.Type, &t.State, &t.Filter, &t.Files, &t.Rows, &t.Bytes, &t.Snapshot, &created, &used, &ended)
	t.Created, t.Used = instant(created), instant(used)
	if ended != 0 {
		t.Ended = instant(ended)
	}
	return t, err
}

// BeginTransaction opens a transaction of which ID, Branch, Type and Filter are
// given. If there is one with the ID on the branch already, of the same type and
// filter, that one is returned, whatever its state. record.ErrConflict while
// another one is open on the branch.
func (c *Catalog) BeginTransaction(ctx context.Context, n Transaction) (t Transaction, err error) {
	op := fmt.Sprintf("begin a transaction on branch %v", n.Branch)
	if id, err := uuid.Parse(n.ID); err != nil || id.String() != n.ID {
		return Transaction{}, failed(op, fmt.Errorf("%w: transaction id %q is no UUID in canonical form", record.ErrInvalid, clip(n.ID)))
	}
	if n.Type != TransactionAppend && n.Type != TransactionSnapshot && n.Type != TransactionDelete {
		return Transaction{}, failed(op, fmt.Errorf("%w: type %q; use %s, %s or %s", record.ErrInvalid, clip(string(n.Type)), TransactionAppend, TransactionSnapshot, TransactionDelete))
	}
	if n.Filter != "" && n.Type != TransactionDelete || len(n.Filter) > MaxFilterBytes {
		return Transaction{}, failed(op, fmt.Errorf("%w: a filter of %d bytes for %s; only %s has one, of at most %d", record.ErrInvalid, len(n.Filter), n.Type, TransactionDelete, MaxFilterBytes))
	}
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		now := millis(c.now())
		made, err := changed(ctx, tx, `INSERT INTO transactions
			(id, branch_id, type, state, filter, files, row_count, bytes, snapshot_id, created_ms, used_ms, ended_ms)
			SELECT $1, b.id, $2, 'OPEN', $3, 0, 0, 0, 0, $4, $4, 0 FROM branches b JOIN streams s ON s.id = b.stream_id
			WHERE b.id = $5 AND s.kind = 'DATASET' ON CONFLICT DO NOTHING`,
			n.ID, n.Type, n.Filter, now, n.Branch)
		if err != nil {
			return err
		}
		t, err = scanTransaction(tx.QueryRowContext(ctx, `SELECT `+transactionColumns+` FROM transactions t WHERE t.id = $1`, n.ID))
		if err == nil {
			if made == 0 && (t.Branch != n.Branch || t.Type != n.Type || t.Filter != n.Filter) {
				return fmt.Errorf("%w: transaction %s is another one (%s on branch %v); use another id or key", record.ErrConflict, t.ID, t.Type, t.Branch)
			}
			return nil
		}
		var open string
		if err := tx.QueryRowContext(ctx, `SELECT id FROM transactions WHERE branch_id = $1 AND state = 'OPEN'`, n.Branch).Scan(&open); err != nil {
			return notFound(err, "there is no such branch of a dataset without a stream")
		}
		return fmt.Errorf("%w: transaction %s is open; commit or abort it first", record.ErrConflict, open)
	})
	if err != nil {
		return Transaction{}, err
	}
	return t, nil
}

// Transaction finds a transaction.
func (c *Catalog) Transaction(ctx context.Context, id string) (t Transaction, err error) {
	err = c.read(ctx, "find transaction "+clip(id), func(ctx context.Context, db *sql.DB) error {
		t, err = scanTransaction(db.QueryRowContext(ctx, `SELECT `+transactionColumns+` FROM transactions t WHERE t.id = $1`, id))
		return notFound(err, "there is no such transaction; those that ended long ago are forgotten")
	})
	return t, err
}

// TransactionQuery selects transactions of a branch, newest first.
type TransactionQuery struct {
	Branch BranchID
	State  TransactionState // empty: all
	// Before and BeforeID are of the last one of the page before; zero: from the
	// newest. Limit: see DefaultPage.
	Before   time.Time
	BeforeID string
	Limit    int
}

// Transactions lists transactions.
func (c *Catalog) Transactions(ctx context.Context, q TransactionQuery) (all []Transaction, err error) {
	before := int64(1) << 60
	if !q.Before.IsZero() {
		before = millis(q.Before)
	}
	sqlText := `SELECT ` + transactionColumns + ` FROM transactions t WHERE t.branch_id = $1 AND (t.created_ms, t.id) < ($2, $3)`
	args := []any{q.Branch, before, q.BeforeID, pageLimit(q.Limit)}
	if q.State != "" {
		sqlText += ` AND t.state = $5`
		args = append(args, q.State)
	}
	err = c.read(ctx, fmt.Sprintf("list transactions of branch %v", q.Branch), func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scanTransaction, sqlText+` ORDER BY t.created_ms DESC, t.id DESC LIMIT $4`, args...)
		return err
	})
	return all, err
}

// openTransaction reads a transaction that is OPEN; record.ErrFenced if it ended.
func openTransaction(ctx context.Context, tx *sql.Tx, id string) (Transaction, error) {
	t, err := scanTransaction(tx.QueryRowContext(ctx, `SELECT `+transactionColumns+` FROM transactions t WHERE t.id = $1`, id))
	if err != nil {
		return Transaction{}, notFound(err, "there is no such transaction; those that ended long ago are forgotten")
	}
	if t.State != TransactionOpen {
		return t, fmt.Errorf("%w: the transaction is %s; begin another one", record.ErrFenced, t.State)
	}
	return t, nil
}

// StageFile adds a file, durable by now, to an OPEN transaction. If there is one of
// that name already, that one is returned and nothing added. record.ErrFenced if
// the transaction has ended.
func (c *Catalog) StageFile(ctx context.Context, id string, f StagedFile) (staged StagedFile, err error) {
	op := fmt.Sprintf("add a file to transaction %s", clip(id))
	switch {
	case f.Name == "" || len(f.Name) > MaxNameLen:
		return StagedFile{}, failed(op, fmt.Errorf("%w: a file name of %d bytes; use 1 to %d", record.ErrInvalid, len(f.Name), MaxNameLen))
	case len(f.Body) > MaxStagedBytes:
		return StagedFile{}, failed(op, fmt.Errorf("%w: the statistics of file %s take %d bytes; at most %d are kept", record.ErrTooLarge, clip(f.Name), len(f.Body), MaxStagedBytes))
	}
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		t, err := openTransaction(ctx, tx, id)
		if err != nil {
			return err
		}
		made, err := changed(ctx, tx, `INSERT INTO transaction_files (transaction_id, name, location, row_count, bytes, body)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, id, f.Name, f.Location, f.Rows, f.Bytes, string(f.Body))
		if err != nil {
			return err
		}
		if made == 0 {
			staged, err = scanStaged(tx.QueryRowContext(ctx, `SELECT `+stagedColumns+` FROM transaction_files f WHERE f.transaction_id = $1 AND f.name = $2`, id, f.Name))
			return err
		}
		if staged = f; t.Files >= MaxTransactionFiles {
			return fmt.Errorf("%w: the transaction has %d files; commit it and begin another one, or send larger files", record.ErrTooLarge, t.Files)
		}
		_, err = tx.ExecContext(ctx, `UPDATE transactions SET files = files + 1, row_count = row_count + $1, bytes = bytes + $2, used_ms = $3 WHERE id = $4`,
			f.Rows, f.Bytes, millis(c.now()), id)
		return err
	})
	if err != nil {
		return StagedFile{}, err
	}
	return staged, nil
}

const stagedColumns = `f.name, f.location, f.row_count, f.bytes, f.body`

func scanStaged(row scanner) (StagedFile, error) {
	var f StagedFile
	var body string
	err := row.Scan(&f.Name, &f.Location, &f.Rows, &f.Bytes, &body)
	f.Body = []byte(body)
	return f, err
}

// StagedFile finds a file of an OPEN transaction by its name.
func (c *Catalog) StagedFile(ctx context.Context, id, name string) (f StagedFile, err error) {
	err = c.read(ctx, fmt.Sprintf("find file %s of transaction %s", clip(name), clip(id)), func(ctx context.Context, db *sql.DB) error {
		f, err = scanStaged(db.QueryRowContext(ctx, `SELECT `+stagedColumns+` FROM transaction_files f WHERE f.transaction_id = $1 AND f.name = $2`, id, name))
		return notFound(err, "there is no such file, or the transaction has ended")
	})
	return f, err
}

// StagedFiles lists the files of a transaction in the order of their names, those
// behind the given one ("": from the first), at most limit (see DefaultPage).
func (c *Catalog) StagedFiles(ctx context.Context, id, after string, limit int) (all []StagedFile, err error) {
	err = c.read(ctx, "list files of transaction "+clip(id), func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scanStaged, `SELECT `+stagedColumns+` FROM transaction_files f
			WHERE f.transaction_id = $1 AND f.name > $2 ORDER BY f.name LIMIT $3`, id, after, pageLimit(limit))
		return err
	})
	return all, err
}

// StagedBelow returns the locations that begin with prefix of the files of OPEN
// transactions: nobody may delete them.
func (c *Catalog) StagedBelow(ctx context.Context, prefix string) (locations []string, err error) {
	scan := func(row scanner) (string, error) {
		var l string
		err := row.Scan(&l)
		return l, err
	}
	err = c.read(ctx, "list files of open transactions below "+prefix, func(ctx context.Context, db *sql.DB) error {
		locations, err = collect(ctx, db, scan, `SELECT location FROM transaction_files WHERE substr(location, 1, length(CAST($1 AS TEXT))) = $1`, prefix)
		return err
	})
	return locations, err
}

// CommitTransaction ends an OPEN transaction and moves its table's pointer, in one
// step: the transaction is COMMITTED if and only if the pointer moved. from and to
// are equal if there is nothing to change; files is how many of its files are in to.
// record.ErrFenced if the transaction has ended, or has more files by now; other errors
// as of SwapTablePointer.
func (c *Catalog) CommitTransaction(ctx context.Context, id, tableUUID, from, to string, snapshot int64, files int) error {
	return c.write(ctx, "commit transaction "+clip(id), func(ctx context.Context, tx *sql.Tx) error {
		t, err := openTransaction(ctx, tx, id)
		if err != nil {
			return err
		}
		if t.Files != files {
			return fmt.Errorf("%w: it has %d files, not %d; look at it again", record.ErrFenced, t.Files, files)
		}
		var own string
		if err := tx.QueryRowContext(ctx, `SELECT table_uuid FROM branches WHERE id = $1`, t.Branch).Scan(&own); err != nil {
			return notFound(err, "there is no such branch")
		}
		if own != tableUUID {
			return fmt.Errorf("%w: it belongs to table %s, not %s", record.ErrInvalid, own, tableUUID)
		}
		if from != to {
			if err := c.swapPointer(ctx, tx, Swap{tableUUID, from, to}); err != nil {
				return err
			}
		}
		return endTransaction(ctx, tx, id, TransactionCommitted, snapshot, millis(c.now()))
	})
}

func endTransaction(ctx context.Context, tx *sql.Tx, id string, state TransactionState, snapshot, now int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE transactions SET state = $1, snapshot_id = $2, ended_ms = $3 WHERE id = $4 AND state = 'OPEN'`, state, snapshot, max(1, now), id)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM transaction_files WHERE transaction_id = $1`, id)
	return err
}

// AbortTransaction ends an OPEN transaction: it can never be committed, and nothing
// leads to its files any more. For an ABORTED one it does nothing; record.ErrConflict
// if it is COMMITTED.
func (c *Catalog) AbortTransaction(ctx context.Context, id string) (t Transaction, err error) {
	err = c.write(ctx, "abort transaction "+clip(id), func(ctx context.Context, tx *sql.Tx) error {
		t, err = openTransaction(ctx, tx, id)
		switch {
		case err == nil:
		case t.State == TransactionAborted:
			return nil
		case t.State == TransactionCommitted:
			return fmt.Errorf("%w: it is committed, as snapshot %d; roll the dataset back instead", record.ErrConflict, t.Snapshot)
		default:
			return err
		}
		now := millis(c.now())
		t.State, t.Ended = TransactionAborted, instant(max(1, now))
		return endTransaction(ctx, tx, id, TransactionAborted, 0, now)
	})
	return t, err
}

// pruneTransactions bounds one call of PruneTransactions.
const pruneTransactions = 1000

// PruneTransactions aborts OPEN transactions to which nothing was added since
// idle, and forgets those that ended before ended. It returns how many of both.
func (c *Catalog) PruneTransactions(ctx context.Context, idle, ended time.Time) (aborted, forgotten int64, err error) {
	err = c.write(ctx, "prune transactions", func(ctx context.Context, tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT id FROM transactions WHERE state = 'OPEN' AND used_ms < $1 LIMIT $2`, millis(idle), pruneTransactions)
		if err != nil {
			return err
		}
		defer rows.Close()
		var ids []string
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, id := range ids {
			if err := endTransaction(ctx, tx, id, TransactionAborted, 0, millis(c.now())); err != nil {
				return err
			}
		}
		aborted = int64(len(ids))
		forgotten, err = changed(ctx, tx, `DELETE FROM transactions WHERE id IN
			(SELECT id FROM transactions WHERE state <> 'OPEN' AND ended_ms < $1 LIMIT $2)`, millis(ended), pruneTransactions)
		return err
	})
	return aborted, forgotten, err
}
