package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Checkpoint is a durable, consistent cut of a view. Exactly-once readers advance
// from one to the next: epoch n holds the rows between cut n-1 and cut n.
type Checkpoint struct {
	View record.ViewID
	// Number counts 1, 2, … per view, without gaps.
	Number int64
	// Cut never stands before the cut of the checkpoint before it.
	Cut record.Offsets
	// Timestamp is the append time of the newest row below the cut,
	// milliseconds since 1970 UTC. It never goes back.
	Timestamp int64
	// Guests is the guest sequence of the cut (decision 0013): the guest rows of
	// data files with this data sequence number or a smaller one lie below it. It
	// never goes back.
	Guests int64
	// Created is set by AddCheckpoints.
	Created time.Time
}

// CheckpointError names the view whose checkpoint was refused.
type CheckpointError struct {
	View record.ViewID
	Err  error
}

func (e *CheckpointError) Error() string { return fmt.Sprintf("view %v: %v", e.View, e.Err) }
func (e *CheckpointError) Unwrap() error { return e.Err }

// AddCheckpoints adds checkpoints of any number of views in one transaction, all
// or none. Several of one view stand in the order of their numbers. Each must
// follow the newest one of its view: record.ErrConflict if its number is not the
// next, record.ErrInvalid if its cut or timestamp goes back, record.ErrNotFound
// if the view is gone. These errors are a *CheckpointError that names the view, so
// that the others can be tried again without it.
func (c *Catalog) AddCheckpoints(ctx context.Context, cps []Checkpoint) error {
	if len(cps) == 0 {
		return nil
	}
	return c.write(ctx, fmt.Sprintf("add %d checkpoints", len(cps)), func(ctx context.Context, tx *sql.Tx) error {
		now := millis(c.now())
		next, err := tx.PrepareContext(ctx, `UPDATE views SET last_checkpoint = $1 WHERE id = $2 AND last_checkpoint = $1 - 1`)
		if err != nil {
			return err
		}
		defer next.Close()
		previous, err := tx.PrepareContext(ctx, `SELECT cut, timestamp_ms, guests FROM checkpoints WHERE view_id = $1 AND number = $2`)
		if err != nil {
			return err
		}
		defer previous.Close()
		insert, err := tx.PrepareContext(ctx, `INSERT INTO checkpoints (view_id, number, cut, timestamp_ms, guests, created_ms) VALUES ($1, $2, $3, $4, $5, $6)`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, cp := range cps {
			err := addCheckpoint(ctx, tx, next, previous, insert, cp, now)
			if refused(err) {
				return &CheckpointError{View: cp.View, Err: err}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// refused tells the faults of one checkpoint from those of the catalog.
func refused(err error) bool {
	return errors.Is(err, record.ErrConflict) || errors.Is(err, record.ErrInvalid) ||
		errors.Is(err, record.ErrNotFound) || errors.Is(err, record.ErrCorrupt)
}

func addCheckpoint(ctx context.Context, tx *sql.Tx, next, previous, insert *sql.Stmt, cp Checkpoint, now int64) error {
	text, err := encodeCut(cp.Cut)
	if err != nil {
		return err
	}
	res, err := next.ExecContext(ctx, cp.Number, cp.View)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		var last int64
		err := tx.QueryRowContext(ctx, `SELECT last_checkpoint FROM views WHERE id = $1`, cp.View).Scan(&last)
		if err != nil {
			return notFound(err, "there is no such view; its stream may have been deleted")
		}
		return fmt.Errorf("%w: checkpoint %d; the next one is %d", record.ErrConflict, cp.Number, last+1)
	}
	if cp.Number > 1 {
		// The newest checkpoint is never pruned, so this one is there.
		before := Checkpoint{View: cp.View, Number: cp.Number - 1}
		var cut string
		if err := previous.QueryRowContext(ctx, before.View, before.Number).Scan(&cut, &before.Timestamp, &before.Guests); err != nil {
			return fmt.Errorf("checkpoint %d: %w", before.Number, err)
		}
		if before.Cut, err = decodeCut(cut); err != nil {
			return err
		}
		if !cp.Cut.Covers(before.Cut) || cp.Timestamp < before.Timestamp || cp.Guests < before.Guests {
			return fmt.Errorf("%w: checkpoint %d at %v (timestamp %d, guests %d) stands before checkpoint %d at %v (timestamp %d, guests %d)",
				record.ErrInvalid, cp.Number, cp.Cut, cp.Timestamp, cp.Guests, before.Number, before.Cut, before.Timestamp, before.Guests)
		}
	}
	_, err = insert.ExecContext(ctx, cp.View, cp.Number, text, cp.Timestamp, cp.Guests, now)
	return err
}

const checkpointQuery = `SELECT view_id, number, cut, timestamp_ms, guests, created_ms FROM checkpoints `

func scanCheckpoint(row scanner) (Checkpoint, error) {
	var cp Checkpoint
	var cut string
	var created int64
	err := row.Scan(&cp.View, &cp.Number, &cut, &cp.Timestamp, &cp.Guests, &created)
	if err != nil {
		return Checkpoint{}, err
	}
	cp.Created = instant(created)
	cp.Cut, err = decodeCut(cut)
	return cp, err
}

// LatestCheckpoint returns the newest checkpoint of a view; record.ErrNotFound if
// it has none yet.
func (c *Catalog) LatestCheckpoint(ctx context.Context, v record.ViewID) (Checkpoint, error) {
	return c.checkpoint(ctx, fmt.Sprintf("find the latest checkpoint of view %v", v), "the view has none",
		`WHERE view_id = $1 ORDER BY number DESC LIMIT 1`, v)
}

// Checkpoint returns one checkpoint; record.ErrNotFound if it was not taken yet or
// was pruned.
func (c *Catalog) Checkpoint(ctx context.Context, v record.ViewID, number int64) (Checkpoint, error) {
	return c.checkpoint(ctx, fmt.Sprintf("find checkpoint %d of view %v", number, v), "it was not taken yet, or is too old and was removed",
		`WHERE view_id = $1 AND number = $2`, v, number)
}

func (c *Catalog) checkpoint(ctx context.Context, op, hint, where string, args ...any) (cp Checkpoint, err error) {
	err = c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
		cp, err = scanCheckpoint(db.QueryRowContext(ctx, checkpointQuery+where, args...))
		return notFound(err, hint)
	})
	return cp, err
}

// CheckpointsAfter lists the checkpoints of a view after a number (0: from the
// first), at most limit (see DefaultPage). The first one has a larger number than
// the next if those between were pruned.
func (c *Catalog) CheckpointsAfter(ctx context.Context, v record.ViewID, number int64, limit int) (all []Checkpoint, err error) {
	err = c.read(ctx, fmt.Sprintf("list checkpoints of view %v", v), func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scanCheckpoint,
			checkpointQuery+`WHERE view_id = $1 AND number > $2 ORDER BY number LIMIT $3`, v, number, pageLimit(limit))
		return err
	})
	return all, err
}

var errCut = errors.New("it must hold 1 to MaxPartitions offsets, none negative")

// encodeCut writes a cut as a JSON array, one offset per partition.
func encodeCut(cut record.Offsets) (string, error) {
	if err := validateCut(cut); err != nil {
		return "", fmt.Errorf("%w: cut of %d partitions: %w", record.ErrInvalid, len(cut), err)
	}
	b, err := json.Marshal([]record.Offset(cut))
	return string(b), err
}

func decodeCut(text string) (record.Offsets, error) {
	var cut []record.Offset
	err := json.Unmarshal([]byte(text), &cut)
	if err == nil {
		err = validateCut(cut)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: stored cut %q: %s", record.ErrCorrupt, clip(text), err.Error())
	}
	return cut, nil
}

func validateCut(cut record.Offsets) error {
	if len(cut) == 0 || len(cut) > record.MaxPartitions {
		return errCut
	}
	for _, o := range cut {
		if o < 0 {
			return errCut
		}
	}
	return nil
}
