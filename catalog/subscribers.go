package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/thermocline/thermocline/record"
)

// SubscriberID identifies a subscriber among those of all branches, for ever.
// From 1.
type SubscriberID int64

func (s SubscriberID) String() string { return "g" + strconv.FormatInt(int64(s), 10) }

// Limits of subscribers.
const (
	// MaxSubscribers bounds the subscribers of a branch.
	MaxSubscribers = 1000
	// MaxHold bounds Subscriber.Hold.
	MaxHold = time.Hour
)

// Subscriber is a named, durable reading position on a branch.
type Subscriber struct {
	ID     SubscriberID
	Branch BranchID
	Name   string // see ValidateSubscriberName; unique on the branch
	// Consistency never changes.
	Consistency Consistency
	// View, Next, Guests and Checkpoint are the committed position: every row of
	// View below Next, and every guest row up to the guest sequence, is dealt
	// with. Checkpoint is the number of a checkpoint whose rows all are, 0 if
	// none is known.
	View       record.ViewID
	Next       record.Offsets
	Guests     int64
	Checkpoint int64
	// Generation counts the resets of the position, from 1: a commit that is
	// based on an older one is fenced.
	Generation int64
	// Session is the last session number that was given out. It is larger than
	// all before, also than those of an earlier subscriber of this name.
	Session int64
	// Hold is how long after their append rows that are not dealt with may stay
	// hot. Whole milliseconds.
	Hold time.Duration
	// Committed is when the position last moved.
	Created, Committed time.Time
}

// ValidateSubscriberName checks the name of a subscriber: letters, digits,
// underscores, dots and hyphens, all ASCII, 1 to MaxNameLen, and neither "." nor
// "..", which have a meaning in paths.
func ValidateSubscriberName(s string) error {
	if s == "" || s == "." || s == ".." {
		return fmt.Errorf("%w: the subscriber name %q; use letters, digits, underscores, dots and hyphens", record.ErrInvalid, s)
	}
	if len(s) > MaxNameLen {
		return fmt.Errorf("%w: the subscriber name %q has %d characters; at most %d are allowed", record.ErrInvalid, clip(s), len(s), MaxNameLen)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%w: the subscriber name %q has %q at position %d; use letters, digits, underscores, dots and hyphens",
				record.ErrInvalid, s, []rune(s[i:])[0], i)
		}
	}
	return nil
}

const subscriberQuery = `SELECT id, branch_id, name, consistency, view_id, next, guests, checkpoint, generation, session, hold_ms, created_ms, committed_ms FROM subscribers `

func scanSubscriber(row scanner) (Subscriber, error) {
	var s Subscriber
	var next string
	var hold, created, committed int64
	err := row.Scan(&s.ID, &s.Branch, &s.Name, &s.Consistency, &s.View, &next, &s.Guests, &s.Checkpoint, &s.Generation, &s.Session, &hold, &created, &committed)
	if err != nil {
		return Subscriber{}, err
	}
	s.Hold = time.Duration(hold) * time.Millisecond
	s.Created, s.Committed = instant(created), instant(committed)
	if s.Next, err = decodePosition(next); err != nil {
		return Subscriber{}, fmt.Errorf("subscriber %s: %w", s.Name, err)
	}
	return s, nil
}

// A position is a cut that may have no partition at all: the very beginning.
func encodePosition(next record.Offsets, guests, checkpoint int64) (string, error) {
	if guests < 0 {
		return "", fmt.Errorf("%w: guest sequence %d; it is 0 or more", record.ErrInvalid, guests)
	}
	if checkpoint < 0 {
		return "", fmt.Errorf("%w: checkpoint %d; numbers begin with 1, 0 is none", record.ErrInvalid, checkpoint)
	}
	if len(next) == 0 {
		return "[]", nil
	}
	return encodeCut(next)
}

func decodePosition(text string) (record.Offsets, error) {
	if text == "[]" {
		return record.Offsets{}, nil
	}
	return decodeCut(text)
}

// CreateSubscriber makes a subscriber of which Branch, Name, Consistency, Hold and
// the position are given. record.ErrExists if the branch has one of that name,
// record.ErrNotFound if there is no such branch, record.ErrConflict if View is not
// its ACTIVE one, record.ErrTooLarge if it has MaxSubscribers.
func (c *Catalog) CreateSubscriber(ctx context.Context, s Subscriber) (Subscriber, error) {
	op := fmt.Sprintf("create subscriber %s of branch %v", clip(s.Name), s.Branch)
	next, err := encodePosition(s.Next, s.Guests, s.Checkpoint)
	if err == nil {
		err = ValidateSubscriberName(s.Name)
	}
	if err == nil && s.Consistency != AtLeastOnce && s.Consistency != ExactlyOnce {
		err = fmt.Errorf("%w: consistency %q; use %s or %s", record.ErrInvalid, clip(string(s.Consistency)), AtLeastOnce, ExactlyOnce)
	}
	if err == nil {
		err = validateInterval("hold", s.Hold, 0, MaxHold)
	}
	if err != nil {
		return Subscriber{}, failed(op, err)
	}
	s.Next = append(record.Offsets{}, s.Next...)
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		if err := requireActive(ctx, tx, s.Branch, s.View); err != nil {
			return err
		}
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM subscribers WHERE branch_id = $1`, s.Branch).Scan(&there); err != nil {
			return err
		}
		id, err := nextID(ctx, tx, "subscriber")
		if err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT last FROM counters WHERE name = 'session'`).Scan(&s.Session); err != nil {
			return err
		}
		if s.Checkpoint, err = coveredCheckpoint(ctx, tx, s.View, s.Next, s.Guests, s.Checkpoint, 0); err != nil {
			return err
		}
		now := millis(c.now())
		s.ID, s.Generation, s.Created, s.Committed = SubscriberID(id), 1, instant(now), instant(now)
		made, err := changed(ctx, tx, `INSERT INTO subscribers
			(id, branch_id, name, consistency, view_id, next, guests, checkpoint, generation, session, hold_ms, created_ms, committed_ms)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12) ON CONFLICT DO NOTHING`,
			id, s.Branch, s.Name, s.Consistency, s.View, next, s.Guests, s.Checkpoint, s.Generation, s.Session, s.Hold.Milliseconds(), now)
		switch {
		case err != nil:
			return err
		case made == 0:
			return fmt.Errorf("%w: choose another name, or reset or delete that subscriber", record.ErrExists)
		case there >= MaxSubscribers:
			return fmt.Errorf("%w: the branch has %d subscribers, and may not have more; delete those that are no longer used", record.ErrTooLarge, there)
		}
		return nil
	})
	if err != nil {
		return Subscriber{}, err
	}
	return s, nil
}

// coveredCheckpoint returns number if that is a checkpoint at or below next, else
// the smaller one that is known to be. Callers give numbers that are right for the
// partitions that they read; what is stored must hold for all, since checkpoints
// behind it are kept for the subscriber, and its epochs are counted from there.
func coveredCheckpoint(ctx context.Context, tx *sql.Tx, v record.ViewID, next record.Offsets, guests, number, known int64) (int64, error) {
	if number <= known {
		return known, nil
	}
	cp, err := scanCheckpoint(tx.QueryRowContext(ctx, checkpointQuery+`WHERE view_id = $1 AND number = $2`, v, number))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return known, nil
	case err != nil:
		return 0, err
	case !next.Covers(cp.Cut) || guests < cp.Guests:
		return known, nil
	}
	return number, nil
}

// requireActive fails unless v is the ACTIVE view of a branch.
func requireActive(ctx context.Context, tx *sql.Tx, b BranchID, v record.ViewID) error {
	var active record.ViewID
	err := tx.QueryRowContext(ctx, `SELECT id FROM views WHERE branch_id = $1 AND state = 'ACTIVE'`, b).Scan(&active)
	if err != nil {
		return notFound(err, "there is no such branch; its stream may have been deleted")
	}
	if active != v {
		return fmt.Errorf("%w: the position is of view %v, the branch's current one is %v: it was reset; decide again", record.ErrConflict, v, active)
	}
	return nil
}

// Subscriber finds a subscriber of a branch by name.
func (c *Catalog) Subscriber(ctx context.Context, b BranchID, name string) (s Subscriber, err error) {
	err = c.read(ctx, fmt.Sprintf("find subscriber %s of branch %v", clip(name), b), func(ctx context.Context, db *sql.DB) error {
		s, err = scanSubscriber(db.QueryRowContext(ctx, subscriberQuery+`WHERE branch_id = $1 AND name = $2`, b, name))
		return notFound(err, noSubscriber)
	})
	return s, err
}

const noSubscriber = "there is no such subscriber; it may have been deleted"

// ListSubscribers lists the subscribers of a branch by name, those after the given
// name ("": from the first), at most limit (see DefaultPage).
func (c *Catalog) ListSubscribers(ctx context.Context, b BranchID, after string, limit int) ([]Subscriber, error) {
	return c.subscribers(ctx, fmt.Sprintf("list subscribers of branch %v", b),
		`WHERE branch_id = $1 AND name > $2 ORDER BY name LIMIT $3`, b, after, pageLimit(limit))
}

// AllSubscribers lists the subscribers of all branches by id, those after the given
// one (0: from the first), at most limit (see DefaultPage).
func (c *Catalog) AllSubscribers(ctx context.Context, after SubscriberID, limit int) ([]Subscriber, error) {
	return c.subscribers(ctx, "list all subscribers", `WHERE id > $1 ORDER BY id LIMIT $2`, after, pageLimit(limit))
}

// ViewSubscribers lists all subscribers whose position is of a view.
func (c *Catalog) ViewSubscribers(ctx context.Context, v record.ViewID) ([]Subscriber, error) {
	return c.subscribers(ctx, fmt.Sprintf("list subscribers of view %v", v), `WHERE view_id = $1 ORDER BY id`, v)
}

func (c *Catalog) subscribers(ctx context.Context, op, where string, args ...any) (all []Subscriber, err error) {
	err = c.read(ctx, op, func(ctx context.Context, db *sql.DB) error {
		all, err = collect(ctx, db, scanSubscriber, subscriberQuery+where, args...)
		return err
	})
	return all, err
}

// BeginSession gives out the next session number of a subscriber. It is durable
// when it returns: no later call, whatever crashes between, returns it again.
func (c *Catalog) BeginSession(ctx context.Context, id SubscriberID) (session int64, err error) {
	err = c.write(ctx, fmt.Sprintf("begin a session of subscriber %v", id), func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `UPDATE subscribers SET session = session + 1 WHERE id = $1 RETURNING session`, id).Scan(&session)
		return notFound(err, noSubscriber)
	})
	if err != nil {
		return 0, err
	}
	return session, nil
}

// SubscriberCommit moves a subscriber's position. Checkpoint counts where, with
// this commit, the position covers it.
type SubscriberCommit struct {
	ID         SubscriberID
	Generation int64
	View       record.ViewID
	Next       record.Offsets
	Guests     int64
	Checkpoint int64
}

// CommitSubscribers moves positions of any number of subscribers in one
// transaction. Each partition goes to the larger of where it stands and Next, and
// guest rows likewise, so that a late or repeated commit does no harm. The result has an error per
// commit, nil where it took place: record.ErrNotFound, record.ErrFenced (the
// position was reset since Generation), record.ErrInvalid (the position is none,
// or of another view); such a commit does not keep the others from theirs. The
// second error says that none took place.
func (c *Catalog) CommitSubscribers(ctx context.Context, commits []SubscriberCommit) ([]error, error) {
	if len(commits) == 0 {
		return nil, nil
	}
	var outcome []error
	err := c.write(ctx, fmt.Sprintf("commit %d positions of subscribers", len(commits)), func(ctx context.Context, tx *sql.Tx) error {
		outcome = make([]error, len(commits))
		find, err := tx.PrepareContext(ctx, subscriberQuery+`WHERE id = $1`)
		if err != nil {
			return err
		}
		defer find.Close()
		move, err := tx.PrepareContext(ctx, `UPDATE subscribers SET next = $1, guests = $2, checkpoint = $3, committed_ms = $4 WHERE id = $5`)
		if err != nil {
			return err
		}
		defer move.Close()
		now := millis(c.now())
		for i, commit := range commits {
			err := commitSubscriber(ctx, tx, find, move, commit, now)
			switch {
			case err == nil:
			case refused(err) || errors.Is(err, record.ErrFenced):
				outcome[i] = fmt.Errorf("catalog: commit the position of subscriber %v: %w", commit.ID, err)
			default:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return outcome, nil
}

func commitSubscriber(ctx context.Context, tx *sql.Tx, find, move *sql.Stmt, commit SubscriberCommit, now int64) error {
	if _, err := encodePosition(commit.Next, commit.Guests, commit.Checkpoint); err != nil {
		return err
	}
	s, err := scanSubscriber(find.QueryRowContext(ctx, commit.ID))
	switch {
	case err != nil:
		return notFound(err, noSubscriber)
	case commit.Generation != s.Generation:
		return fmt.Errorf("%w: its position was reset; join again", record.ErrFenced)
	case commit.View != s.View:
		return fmt.Errorf("%w: the commit is of view %v, the position of view %v", record.ErrInvalid, commit.View, s.View)
	}
	next, guests := merged(s.Next, commit.Next), max(s.Guests, commit.Guests)
	checkpoint, err := coveredCheckpoint(ctx, tx, s.View, next, guests, commit.Checkpoint, s.Checkpoint)
	if err != nil {
		return err
	}
	if s.Next.Covers(next) && s.Guests == guests && s.Checkpoint == checkpoint {
		return nil // spares a sync when all are so
	}
	text, err := encodePosition(next, guests, checkpoint)
	if err != nil {
		return err
	}
	_, err = move.ExecContext(ctx, text, guests, checkpoint, now, s.ID)
	return err
}

// merged is the larger offset of each partition.
func merged(a, b record.Offsets) record.Offsets {
	m := make(record.Offsets, max(len(a), len(b)))
	for i := range m {
		p := record.Partition(i)
		m[i] = max(a.At(p), b.At(p))
	}
	return m
}

// ResetSubscriber puts a subscriber at any position of its branch's ACTIVE view,
// forwards or back, and begins a generation: commits of the one before are fenced.
// record.ErrNotFound, or record.ErrConflict if view is not the ACTIVE one.
func (c *Catalog) ResetSubscriber(ctx context.Context, id SubscriberID, view record.ViewID, next record.Offsets, guests, checkpoint int64) (s Subscriber, err error) {
	op := fmt.Sprintf("reset subscriber %v", id)
	text, err := encodePosition(next, guests, checkpoint)
	if err != nil {
		return Subscriber{}, failed(op, err)
	}
	err = c.write(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		if s, err = scanSubscriber(tx.QueryRowContext(ctx, subscriberQuery+`WHERE id = $1`, id)); err != nil {
			return notFound(err, noSubscriber)
		}
		if err := requireActive(ctx, tx, s.Branch, view); err != nil {
			return err
		}
		now := millis(c.now())
		s.View, s.Next, s.Guests = view, append(record.Offsets{}, next...), guests
		if s.Checkpoint, err = coveredCheckpoint(ctx, tx, view, next, guests, checkpoint, 0); err != nil {
			return err
		}
		s.Generation, s.Committed = s.Generation+1, instant(now)
		_, err := tx.ExecContext(ctx, `UPDATE subscribers SET view_id = $1, next = $2, guests = $3, checkpoint = $4, generation = $5, committed_ms = $6 WHERE id = $7`,
			view, text, guests, s.Checkpoint, s.Generation, now, id)
		return err
	})
	if err != nil {
		return Subscriber{}, err
	}
	return s, nil
}

// DeleteSubscriber forgets a subscriber; record.ErrNotFound if there is none.
func (c *Catalog) DeleteSubscriber(ctx context.Context, id SubscriberID) error {
	return c.write(ctx, fmt.Sprintf("delete subscriber %v", id), func(ctx context.Context, tx *sql.Tx) error {
		n, err := deleteSubscribers(ctx, tx, `DELETE FROM subscribers WHERE id = $1 RETURNING session`, id)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s", record.ErrNotFound, noSubscriber)
		}
		return err
	})
}

// deleteSubscribers runs a DELETE … RETURNING session, and remembers the largest
// session: whoever still has it must not pass for a session of a later subscriber
// of the same name.
func deleteSubscribers(ctx context.Context, tx *sql.Tx, query string, args ...any) (n int64, err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var largest, session int64
	for ; rows.Next(); n++ {
		if err := rows.Scan(&session); err != nil {
			return 0, err
		}
		largest = max(largest, session)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || n == 0 {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE counters SET last = $1 WHERE name = 'session' AND last < $1`, largest)
	return n, err
}
