package reader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// Guest rows are those of a branch's table that are not of its active view: rows
// that it began with, rows that were merged into it, rows of other engines. Their
// place is the data sequence number of their file (decision 0013). They are cold
// from the beginning, belong to no partition, and come with those of partition 0,
// so that a division of the partitions divides them as well.

// visible tells whether the guest rows of a table with the newest marker m are
// rows of t. After a reset they are not, until the archiver has emptied the table.
func visible(m *dataset.Marker, t Target) bool {
	if m == nil {
		return t.Number == 1 // nothing was ever archived, and there is no other view
	}
	return m.View == t.View
}

// ends remembers how far the guest rows of tables reach.
type ends struct {
	mu     sync.Mutex
	tables map[string]*tableEnd
}

// tableEnd is one table's. now is read without a lock, and replaced by who has
// looking.
type tableEnd struct {
	looking chan struct{} // room for one
	now     atomic.Pointer[endState]
}

type endState struct {
	number  record.ViewNumber
	commits uint64 // before which it was looked at
	checked time.Time
	at      string // the metadata that was looked at
	end     dataset.GuestEnd
	visible bool
}

func (s *endState) sequence() int64 {
	if !s.visible {
		return 0
	}
	return s.end.Sequence
}

// maxEnds bounds what is remembered; a full map begins anew.
const maxEnds = 64 << 10

func (e *ends) of(table string) *tableEnd {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tables[table]
	if t == nil {
		if e.tables == nil || len(e.tables) >= maxEnds {
			e.tables = map[string]*tableEnd{}
		}
		t = &tableEnd{looking: make(chan struct{}, 1)}
		e.tables[table] = t
	}
	return t
}

// guestsAge is how long a bounded read believes what it knows of a table of which
// no commit was told. All commits pass through this process and are told; but one
// whose outcome was unknown may land later.
const guestsAge = time.Second

// guestEnd is the guest sequence at which t's guest rows end now. It costs next to
// nothing while nothing but archives is committed.
func (r *Reader) guestEnd(ctx context.Context, t Target, age time.Duration) (int64, error) {
	e := r.ends.of(t.Table)
	known := func() *endState {
		s := e.now.Load()
		if s != nil && s.number == t.Number && s.commits == r.tables.Commits(t.Table) && time.Since(s.checked) < age {
			return s
		}
		return nil
	}
	if s := known(); s != nil {
		return s.sequence(), nil
	}
	select {
	case e.looking <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("read view %s: %w", t.View, ctx.Err())
	}
	defer func() { <-e.looking }()
	if s := known(); s != nil {
		return s.sequence(), nil // by whom we waited for
	}
	next := endState{number: t.Number, commits: r.tables.Commits(t.Table), checked: time.Now()}
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return 0, gone(t, err)
	}
	next.at = table.MetadataLocation()
	var before dataset.GuestEnd
	if s := e.now.Load(); s != nil && s.number == t.Number {
		if before = s.end; s.at == next.at {
			next.end, next.visible = s.end, s.visible
			e.now.Store(&next)
			return next.sequence(), nil
		}
	}
	m, err := table.Marker()
	if err != nil {
		return 0, err
	}
	if next.visible = visible(m, t); next.visible {
		if next.end, err = table.GuestEnd(ctx, t.Number, before); err != nil {
			return 0, err
		}
	}
	e.now.Store(&next)
	return next.sequence(), nil
}

// guestsLag is how long a checkpointer believes what it knows.
const guestsLag = 10 * time.Minute

// GuestEnd is the guest sequence at which the guest rows of t end now. Unless look,
// it does not find out what it does not know: known is false then.
func (r *Reader) GuestEnd(ctx context.Context, t Target, look bool) (end int64, known bool, err error) {
	if !look {
		s := r.ends.of(t.Table).now.Load()
		if s == nil || s.number != t.Number || s.commits != r.tables.Commits(t.Table) || time.Since(s.checked) >= guestsLag {
			return 0, false, nil
		}
	}
	end, err = r.guestEnd(ctx, t, guestsLag)
	return end, err == nil, err
}

// windows is into how many parts a push read divides what it has to catch up with:
// between two of them a subscriber's commit can stand.
const windows = 64

// guests delivers the guest rows beyond d's position, up to a guest sequence, and
// moves the position behind them. steps: in the order in which they came, about;
// otherwise all of them in one order.
func (r *Reader) guests(ctx context.Context, t Target, d *delivery, through int64, steps bool) error {
	if !d.plan.parts.guests() || d.pos.Within == nil && d.pos.Guests >= through {
		return nil
	}
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return gone(t, err)
	}
	if w := d.pos.Within; w != nil {
		if _, ok := table.Snapshot(w.Snapshot); !ok {
			return fmt.Errorf("the cursor stands amid the guest rows of snapshot %d, which has expired; read from an earlier cursor or from \"earliest\": %w", w.Snapshot, record.ErrOutOfRange)
		}
		if err := r.window(ctx, t, d, table, *w); err != nil {
			return err
		}
	}
	if d.pos.Guests >= through {
		return nil
	}
	m, err := table.Marker()
	if err != nil {
		return err
	}
	head, ok := table.Head()
	if !ok || !visible(m, t) {
		return nil // a reset has come between; our own rows tell
	}
	last := []int64{through}
	if steps {
		if last, err = table.GuestSequences(ctx, head.ID, t.Number, d.pos.Guests, through); err != nil {
			return err
		}
		each := (len(last) + windows - 1) / windows
		for i := 0; len(last) > 0 && i < len(last)-1; i++ {
			last = append(last[:i], last[min(i+each-1, len(last)-1):]...)
		}
	}
	for _, end := range last {
		if err := r.window(ctx, t, d, table, Within{Through: end, Snapshot: head.ID}); err != nil {
			return err
		}
	}
	d.pos.Guests = max(d.pos.Guests, through)
	return nil
}

// window delivers the rest of one window of guest rows.
func (r *Reader) window(ctx context.Context, t Target, d *delivery, table *dataset.Table, w Within) error {
	p := d.plan
	for piece, err := range table.Ordered(ctx, dataset.OrderedOptions{
		ScanOptions: dataset.ScanOptions{SnapshotID: w.Snapshot, Schema: p.scan, Filter: p.where, View: t.Number, BatchBytes: p.memory.cold},
		Guests:      true, After: d.pos.Guests, Through: w.Through, At: w.At,
	}) {
		if err != nil {
			return err
		}
		if err := d.guestRows(ctx, t, w, piece); err != nil {
			return err
		}
	}
	d.pos.Guests, d.pos.Within = w.Through, nil
	if d.epochs == nil && d.told.Within != nil && !d.tell(Batch{Next: d.pos}) {
		return errStopped
	}
	return nil
}

// guestRows delivers those rows of a piece that are guests: mostly all, but in
// files that other engines wrote they may stand among own ones.
func (d *delivery) guestRows(ctx context.Context, t Target, w Within, piece dataset.Piece) error {
	views, _, _, err := d.plan.system(piece.Rows)
	if err != nil {
		return err
	}
	own := int32(t.Number)
	if own == 0 {
		own = -1 // a dataset without a stream has no own rows
	}
	for from := 0; from < len(views); {
		if views[from] == own {
			from++
			continue
		}
		to := from + 1
		for to < len(views) && views[to] != own {
			to++
		}
		run := piece.Rows.NewSlice(int64(from), int64(to))
		ok := d.guestRun(ctx, run, func(n int) *Within {
			return &Within{Through: w.Through, Snapshot: w.Snapshot, At: piece.Behind(from + n)}
		})
		run.Release()
		if !ok {
			return errStopped
		}
		from = to
	}
	return nil
}

func (d *delivery) guestRun(ctx context.Context, run arrow.RecordBatch, behind func(n int) *Within) bool {
	rows, used, err := d.plan.apply(ctx, run, d.limit)
	if err != nil {
		return d.fail(err)
	}
	if d.pos.Within = behind(used); rows == nil {
		return true
	}
	defer rows.Release()
	return d.give(rows)
}

// watch returns a context that ends at the next commit to t's table that may bring
// guest rows.
func (r *Reader) watch(ctx context.Context, t Target) (context.Context, func()) {
	woken, wake := context.WithCancel(ctx)
	stop := r.tables.Watch(t.Table, wake)
	return woken, func() { stop(); wake() }
}

// GuestRows counts the guest rows of t behind a guest sequence, those that an
// engine has deleted by position as well.
func (r *Reader) GuestRows(ctx context.Context, t Target, after int64) (int64, error) {
	end, err := r.guestEnd(ctx, t, guestsLag)
	if err != nil || end <= after {
		return 0, err
	}
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return 0, gone(t, err)
	}
	return table.GuestRows(ctx, t.Number, after)
}

// WithinGuests refuses a cursor whose guest sequence the table never reached:
// record.ErrOutOfRange.
func (r *Reader) WithinGuests(ctx context.Context, t Target, c Cursor) error {
	if c.Guests == 0 && c.Within == nil {
		return nil
	}
	end, err := r.guestEnd(ctx, t, guestsAge)
	if err != nil || c.Guests <= end && c.Within == nil {
		return err
	}
	table, err := r.tables.Load(ctx, t.Table)
	if err != nil {
		return gone(t, err)
	}
	if last := table.Metadata().LastSequenceNumber(); c.Guests > last || c.Within != nil && c.Within.Through > last {
		return fmt.Errorf("the cursor stands behind commit %d of the dataset, which has %d: use a cursor of this stream, or \"earliest\": %w", c.Guests, last, record.ErrOutOfRange)
	}
	return nil
}

// stopped takes errStopped for the end of a read that its consumer left.
func stopped(err error) bool { return errors.Is(err, errStopped) }
