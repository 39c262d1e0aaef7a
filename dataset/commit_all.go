package dataset

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/thermocline/thermocline/record"
)

// TableUpdates is the change of one table among several.
type TableUpdates struct {
	ID      string
	Updates *Updates
	Options UpdateOptions
}

// PointerSwap is the move of one table's pointer among several.
type PointerSwap struct{ ID, From, To string }

// PointerSwaps is what Pointers offer for changes of several tables: all swaps
// happen, or none. Errors as of SwapTablePointer.
type PointerSwaps interface {
	SwapTables(ctx context.Context, swaps []PointerSwap) error
}

// CommitAllUpdates is CommitUpdates for several tables, all of which change or none.
func (d *Datasets) CommitAllUpdates(ctx context.Context, all []TableUpdates) error {
	pointers, ok := d.pointers.(PointerSwaps)
	if !ok {
		return fmt.Errorf("dataset: the catalog cannot change several tables at once: %w", record.ErrInvalid)
	}
	seen := map[string]bool{}
	for _, t := range all {
		if seen[t.ID] {
			return fmt.Errorf("dataset: table %s stands twice in one transaction; put its changes into one: %w", t.ID, record.ErrInvalid)
		}
		seen[t.ID] = true
	}
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		err := d.tryCommitAll(ctx, pointers, all)
		if !errors.Is(err, errMoved) {
			return err
		}
		if attempt == maxAttempts {
			return fmt.Errorf("dataset: commit to %d tables: others committed first %d times in a row: %w", len(all), attempt, record.ErrConflict)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("dataset: commit to %d tables: %w", len(all), ctx.Err())
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// staged is the change of one table, whose files are durable and named by nothing.
type staged struct {
	head     *Table
	commit   *Commit
	location string
	puts     []pending
}

func (d *Datasets) tryCommitAll(ctx context.Context, pointers PointerSwaps, all []TableUpdates) (err error) {
	var ready []staged
	drop := true
	defer func() {
		for _, s := range ready {
			if drop && err != nil {
				d.remove(context.WithoutCancel(ctx), locations(s.puts))
			}
		}
	}()
	landed := 0
	for _, t := range all {
		c := &Commit{updates: &staging{t.Updates, t.Options}}
		head, err := d.Load(ctx, t.ID)
		if err != nil {
			return err
		}
		if c.landed(head, "") {
			landed++
			continue
		}
		s, err := d.stageOne(ctx, head, c)
		if err != nil {
			return err
		}
		if s != nil {
			ready = append(ready, *s)
		}
	}
	if len(ready) == 0 {
		return nil // an earlier call, or nothing to change
	}
	if landed > 0 {
		// Together or not at all: then what has landed was another commit's.
		return unmet("some of the transaction's snapshots are in their tables already")
	}
	swaps := make([]PointerSwap, len(ready))
	for i, s := range ready {
		swaps[i] = PointerSwap{s.head.id, s.head.location, s.location}
	}
	// A crash before this leaves orphans; behind it all tables are new.
	err = pointers.SwapTables(ctx, swaps)
	defer func() {
		for _, s := range swaps {
			d.Committed(s.ID)
		}
	}()
	if err == nil {
		return nil
	}
	// It may have happened, also where it was delivered twice and the second answer
	// came first. All tables moved or none, so that one tells.
	first := ready[0]
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
	defer cancel()
	happened, stands, lookErr := d.look(look, first.head, first.location, "", first.commit)
	drop = false
	switch {
	case happened:
		return nil
	case lookErr != nil, stands && !errors.Is(err, record.ErrConflict) && !errors.Is(err, record.ErrNotFound):
		return fmt.Errorf("dataset: commit to %d tables: %w: %w", len(all), ErrOutcomeUnknown, errors.Join(err, lookErr))
	}
	// Refused, or moved by others: no swap from these places can succeed any more.
	drop = errors.Is(err, record.ErrConflict) || errors.Is(err, record.ErrNotFound)
	if errors.Is(err, record.ErrNotFound) {
		return err
	}
	return errMoved
}

// stageOne makes what the change of one table needs durable; nil if it changes nothing.
func (d *Datasets) stageOne(ctx context.Context, head *Table, c *Commit) (*staged, error) {
	ch, err := newChange(ctx, head, "", c, nil)
	if err != nil || ch == nil {
		return nil, err
	}
	location, data, err := encodeMetadata(ch.built, head.location)
	if err != nil {
		return nil, err
	}
	puts := append(ch.puts, pending{location, data})
	if err := d.putAll(ctx, puts); err != nil {
		d.remove(context.WithoutCancel(ctx), locations(puts))
		return nil, fmt.Errorf("dataset: commit to table %s: %w", head.id, err)
	}
	return &staged{head, c, location, puts}, nil
}
