package subscriber

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
)

// Store keeps subscribers; *catalog.Catalog does.
type Store interface {
	CreateSubscriber(ctx context.Context, s catalog.Subscriber) (catalog.Subscriber, error)
	Subscriber(ctx context.Context, b catalog.BranchID, name string) (catalog.Subscriber, error)
	ListSubscribers(ctx context.Context, b catalog.BranchID, after string, limit int) ([]catalog.Subscriber, error)
	ResetSubscriber(ctx context.Context, id catalog.SubscriberID, view record.ViewID, next record.Offsets, guests, checkpoint int64) (catalog.Subscriber, error)
	DeleteSubscriber(ctx context.Context, id catalog.SubscriberID) error
	// BeginSession gives out a number that is durable when it returns.
	BeginSession(ctx context.Context, id catalog.SubscriberID) (int64, error)
	// CommitSubscribers is one transaction; positions merge and never go back.
	CommitSubscribers(ctx context.Context, commits []catalog.SubscriberCommit) ([]error, error)
}

// History knows what was; *catalog.Catalog does.
type History interface {
	View(ctx context.Context, id record.ViewID) (catalog.View, error)
	// Checkpoint returns record.ErrNotFound for one that was removed.
	Checkpoint(ctx context.Context, v record.ViewID, number int64) (catalog.Checkpoint, error)
	CheckpointsAfter(ctx context.Context, v record.ViewID, number int64, limit int) ([]catalog.Checkpoint, error)
}

// Branch is a branch as it stands at one moment.
type Branch struct {
	ID          catalog.BranchID
	Consistency reader.Consistency // the default for its readers
	Target      reader.Target
}

// Branches finds branches; record.ErrNotFound where there is none. It asks
// nothing that takes long: it is called for each subscriber that is read, again
// and again.
type Branches interface {
	Branch(ref Ref) (Branch, error)
}

// Reads are held-open reads; *reader.Reader does them.
type Reads interface {
	Tail(ctx context.Context, t reader.Target, q reader.Request) (*reader.Result, error)
	// Seek returns the position before the first row whose append time is not
	// before at.
	Seek(ctx context.Context, t reader.Target, at time.Time) (reader.Cursor, error)
	// GuestEnd is the guest sequence at which the guest rows end, GuestRows how many
	// rows there are behind a guest sequence, and WithinGuests refuses a cursor that
	// stands behind all of them with record.ErrOutOfRange.
	GuestEnd(ctx context.Context, t reader.Target, look bool) (end int64, known bool, err error)
	GuestRows(ctx context.Context, t reader.Target, after int64) (int64, error)
	WithinGuests(ctx context.Context, t reader.Target, at reader.Cursor) error
}

// Checkpoints takes them; *reader.Checkpointer does.
type Checkpoints interface {
	Take(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error)
	Latest(ctx context.Context, v record.ViewID) (catalog.Checkpoint, error)
}

// Log tells where the partitions end and how old hot rows are; a
// hotbuffer.Buffer does.
type Log interface {
	Ends(v record.ViewID) (hotbuffer.Ends, error)
	Read(ctx context.Context, v record.ViewID, p record.Partition, from record.Offset, maxBytes int) ([]record.Batch, error)
}

// Options of New. All parts are needed.
type Options struct {
	Store       Store
	History     History
	Branches    Branches
	Reads       Reads
	Checkpoints Checkpoints
	Log         Log
	// HandoverTimeout is how long the next owner of a partition waits for the
	// commits of the last one [10 s].
	HandoverTimeout time.Duration
	// CommitTimeout is how long a member may have rows and commit none of them
	// before it is expelled [60 s].
	CommitTimeout time.Duration
	Logger        *slog.Logger
}

// Coordinator does all there is to do with subscribers. Safe for concurrent use.
//
// Locks, in the order in which they are taken: entry.change, then mu, then
// group.mu. Nothing is waited for under the last two.
type Coordinator struct {
	o       Options
	commits chan *commit
	done    chan struct{} // closed when Run has ended
	ages    ages

	mu      sync.Mutex
	over    bool // Run ends; nobody may join any more
	entries map[key]*entry
}

// key names a subscriber. A branch that is made again has another id.
type key struct {
	branch catalog.BranchID
	name   string
}

// entry is where those meet who have to do with one subscriber. It is there while
// somebody holds it: sessions do until they are closed, commits until they are
// durable.
type entry struct {
	key  key
	refs int // guarded by Coordinator.mu
	// change is held while the subscriber is joined, reset or deleted, so that
	// each sees in the catalog what the one before has left. It is waited for.
	change sync.Mutex
	group  atomic.Pointer[group] // nil: nobody has joined; set under change
}

// New returns a Coordinator; call Run.
func New(o Options) *Coordinator {
	if o.HandoverTimeout <= 0 {
		o.HandoverTimeout = 10 * time.Second
	}
	if o.CommitTimeout <= 0 {
		o.CommitTimeout = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Coordinator{o: o, commits: make(chan *commit, commitQueue), done: make(chan struct{}), entries: map[key]*entry{}}
}

// Run commits, hands partitions over, expels who does not commit, and follows
// what happens to the branches, until ctx ends. Then all sessions end with
// record.ErrClosed. Call it once.
func (c *Coordinator) Run(ctx context.Context) error {
	defer close(c.done)
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { c.runCommits(running); return nil })
	g.Go(func() error { c.runLooks(running); return nil })
	err := g.Wait()
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	for _, g := range c.groups() {
		err := c.closed(g.sub.Name, g.ref)
		g.close(func(int64) error { return err }, err)
	}
	return err
}

// lookEvery is how often the coordinator looks after its groups; a timeout is
// exact to that, and a tenth of it at most.
const lookEvery = time.Second

func (c *Coordinator) runLooks(ctx context.Context) {
	tick := time.NewTicker(max(time.Millisecond, min(lookEvery, c.o.HandoverTimeout/10, c.o.CommitTimeout/10)))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, g := range c.groups() {
			c.follow(g)
			g.look(time.Now())
		}
	}
}

// groups lists those that somebody may be reading.
func (c *Coordinator) groups() []*group {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*group, 0, len(c.entries))
	for _, e := range c.entries {
		if g := e.group.Load(); g != nil {
			all = append(all, g)
		}
	}
	return all
}

// follow has a group take the partitions that its branch has gained, and ends it
// when the branch has another view or is gone.
func (c *Coordinator) follow(g *group) {
	b, err := c.o.Branches.Branch(g.ref)
	var ends hotbuffer.Ends
	if err == nil && (b.ID != g.sub.Branch || b.Target.View != g.sub.View) {
		err = otherView(g.ref, g.sub.Name)
	}
	if err == nil {
		ends, err = c.o.Log.Ends(g.sub.View)
	}
	switch {
	case err == nil:
		g.grow(len(ends.End), time.Now())
	case errors.Is(err, reader.ErrOtherView), errors.Is(err, record.ErrNotFound):
		err = fmt.Errorf("read subscriber %q of %s: %w", g.sub.Name, g.ref, err)
		g.close(func(int64) error { return err }, err)
	default:
		// The log is closed or the branch has lost rows: its reads tell.
	}
}

// otherView: a reset has replaced the view that a subscriber stands in.
func otherView(ref Ref, name string) error {
	return fmt.Errorf("subscriber %q stands in a view of %s that a reset has replaced; reset the subscriber to read the new one: %w", name, ref, reader.ErrOtherView)
}

// acquire returns the entry of a subscriber, who need not exist. release gives it
// back.
func (c *Coordinator) acquire(k key) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e == nil {
		e = &entry{key: k}
		c.entries[k] = e
	}
	e.refs++
	return e
}

// entry is acquire for those who have nothing to do with a subscriber that nobody
// reads: nil then.
func (c *Coordinator) entry(k key) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e != nil {
		e.refs++
	}
	return e
}

func (c *Coordinator) release(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.refs--; e.refs == 0 {
		delete(c.entries, e.key)
	}
}

// Create makes a subscriber; durable when it returns. record.ErrExists,
// record.ErrNotFound (no such branch), record.ErrInvalid, record.ErrTooLarge (the
// branch has catalog.MaxSubscribers), record.ErrOutOfRange (the start is a cursor
// from the future, or of another view: reader.ErrOtherView), record.ErrConflict
// (the branch was reset meanwhile: try again).
func (c *Coordinator) Create(ctx context.Context, ref Ref, s Spec) (Info, error) {
	b, err := c.o.Branches.Branch(ref)
	if err != nil {
		return Info{}, err
	}
	if s.Consistency == "" {
		s.Consistency = b.Consistency
	}
	switch {
	case s.Hold == 0:
		s.Hold = DefaultHold
	case s.Hold < 0 || s.Hold > MaxHold:
		return Info{}, fmt.Errorf("create subscriber %q of %s: hold %v; choose up to %v: %w", s.Name, ref, s.Hold, MaxHold, record.ErrInvalid)
	}
	if err := catalog.ValidateSubscriberName(s.Name); err != nil {
		return Info{}, fmt.Errorf("create subscriber of %s: %w", ref, err)
	}
	at, err := c.begin(ctx, b, s.Consistency, s.Start)
	if err != nil {
		return Info{}, fmt.Errorf("create subscriber %q of %s: %w", s.Name, ref, err)
	}
	made, err := c.o.Store.CreateSubscriber(ctx, catalog.Subscriber{
		Branch: b.ID, Name: s.Name, Consistency: s.Consistency, Hold: s.Hold,
		View: at.View, Next: at.Next, Guests: at.Guests, Checkpoint: at.Checkpoint,
	})
	if err != nil {
		return Info{}, fmt.Errorf("create subscriber %q of %s: %w", s.Name, ref, err)
	}
	return c.info(ctx, b, made)
}

// begin is the position of a start.
func (c *Coordinator) begin(ctx context.Context, b Branch, consistency reader.Consistency, s Start) (reader.Cursor, error) {
	v := b.Target.View
	given := 0
	for _, set := range []bool{s.Latest, s.Cursor != nil, s.Time != nil} {
		if set {
			given++
		}
	}
	if given > 1 {
		return reader.Cursor{}, fmt.Errorf("start: give one of latest, cursor and time: %w", record.ErrInvalid)
	}
	switch {
	case s.Cursor != nil:
		if s.Cursor.View != v {
			return reader.Cursor{}, fmt.Errorf("start: %w: begin at the earliest or the latest row, or at a time", reader.ErrOtherView)
		}
		return *s.Cursor, c.within(ctx, b.Target, *s.Cursor)
	case s.Time != nil:
		return c.o.Reads.Seek(ctx, b.Target, *s.Time)
	case !s.Latest:
		return reader.Cursor{View: v}, nil
	case consistency == catalog.ExactlyOnce:
		// Not the newest as it is: rows acknowledged before this call would
		// come in the first epoch.
		if _, _, err := c.o.Reads.GuestEnd(ctx, b.Target, true); err != nil {
			return reader.Cursor{}, err
		}
		cp, err := c.o.Checkpoints.Take(ctx, v)
		return reader.Cursor{View: v, Next: cp.Cut, Checkpoint: cp.Number, Guests: cp.Guests}, err
	}
	// In this order, because rows that come meanwhile move both.
	cp, err := c.o.Checkpoints.Latest(ctx, v)
	if err != nil {
		return reader.Cursor{}, err
	}
	ends, err := c.o.Log.Ends(v)
	if err != nil {
		return reader.Cursor{}, err
	}
	guests, _, err := c.o.Reads.GuestEnd(ctx, b.Target, true)
	return reader.Cursor{View: v, Next: ends.End, Checkpoint: cp.Number, Guests: guests}, err
}

// within makes sure that a cursor is not from the future.
func (c *Coordinator) within(ctx context.Context, t reader.Target, at reader.Cursor) error {
	ends, err := c.o.Log.Ends(t.View)
	if err != nil {
		return err
	}
	if ends.End.Covers(at.Next) {
		return c.o.Reads.WithinGuests(ctx, t, at)
	}
	return fmt.Errorf("the cursor stands at %v, but the stream ends at %v: use a cursor of this stream: %w", at.Next, ends.End, record.ErrOutOfRange)
}

// Get describes a subscriber; record.ErrNotFound.
func (c *Coordinator) Get(ctx context.Context, ref Ref, name string) (Info, error) {
	b, s, err := c.find(ctx, ref, name)
	if err != nil {
		return Info{}, err
	}
	return c.info(ctx, b, s)
}

func (c *Coordinator) find(ctx context.Context, ref Ref, name string) (Branch, catalog.Subscriber, error) {
	b, err := c.o.Branches.Branch(ref)
	if err != nil {
		return Branch{}, catalog.Subscriber{}, err
	}
	s, err := c.o.Store.Subscriber(ctx, b.ID, name)
	if err != nil {
		return Branch{}, catalog.Subscriber{}, fmt.Errorf("subscriber %q of %s: %w", name, ref, err)
	}
	return b, s, nil
}

// List describes the subscribers of a branch by name, those after the given name
// ("": from the first), at most limit (0: catalog.DefaultPage). next is the name
// to go on after, "" at the end.
func (c *Coordinator) List(ctx context.Context, ref Ref, after string, limit int) (list []Info, next string, err error) {
	b, err := c.o.Branches.Branch(ref)
	if err != nil {
		return nil, "", err
	}
	if limit <= 0 {
		limit = catalog.DefaultPage
	}
	limit = min(limit, catalog.MaxPage)
	found, err := c.o.Store.ListSubscribers(ctx, b.ID, after, limit)
	if err != nil {
		return nil, "", fmt.Errorf("list subscribers of %s: %w", ref, err)
	}
	list = make([]Info, len(found))
	for i, s := range found {
		if list[i], err = c.info(ctx, b, s); err != nil {
			return nil, "", err
		}
	}
	if len(found) == limit {
		next = found[limit-1].Name
	}
	return list, next, nil
}

// Delete forgets a subscriber and ends its sessions; record.ErrNotFound.
func (c *Coordinator) Delete(ctx context.Context, ref Ref, name string) error {
	err := c.change(ctx, ref, name, func(_ Branch, s catalog.Subscriber, end func(string)) error {
		defer end("deleted")
		return c.o.Store.DeleteSubscriber(ctx, s.ID)
	})
	if err != nil {
		return fmt.Errorf("delete subscriber %q of %s: %w", name, ref, err)
	}
	return nil
}

// Reset puts a subscriber at another position, forwards or back, in the branch's
// current view. Its sessions end, fenced; no commit of them moves the new
// position. Errors are those of Create.
func (c *Coordinator) Reset(ctx context.Context, ref Ref, name string, start Start) (Info, error) {
	var i Info
	err := c.change(ctx, ref, name, func(b Branch, s catalog.Subscriber, end func(string)) error {
		at, err := c.begin(ctx, b, s.Consistency, start)
		if err != nil {
			return err
		}
		s, err = c.o.Store.ResetSubscriber(ctx, s.ID, at.View, at.Next, at.Guests, at.Checkpoint)
		end("reset")
		if err != nil {
			return err
		}
		i, err = c.info(ctx, b, s)
		return err
	})
	if err != nil {
		return Info{}, fmt.Errorf("reset subscriber %q of %s: %w", name, ref, err)
	}
	return i, nil
}

// change does what ends all sessions: it calls end once the catalog was asked,
// also when that failed: then the outcome may be unknown, and who joins again
// finds out.
func (c *Coordinator) change(ctx context.Context, ref Ref, name string, do func(b Branch, s catalog.Subscriber, end func(verb string)) error) error {
	b, err := c.o.Branches.Branch(ref)
	if err != nil {
		return err
	}
	e := c.acquire(key{b.ID, name})
	defer c.release(e)
	e.change.Lock()
	defer e.change.Unlock()
	s, err := c.o.Store.Subscriber(ctx, b.ID, name)
	if err != nil {
		return err
	}
	return do(b, s, func(verb string) {
		if g := e.group.Swap(nil); g != nil {
			why := func(session int64) error { return g.fencedErr(session, "the subscriber was "+verb) }
			g.close(why, fmt.Errorf("subscriber %q of %s was %s: %w", name, ref, verb, ErrSessionFenced))
		}
	})
}

// info describes what the catalog holds.
func (c *Coordinator) info(ctx context.Context, b Branch, s catalog.Subscriber) (Info, error) {
	i := Info{
		Name: s.Name, Consistency: s.Consistency, View: b.Target.Number, CurrentView: s.View == b.Target.View,
		Position: reader.Cursor{View: s.View, Next: s.Next, Checkpoint: s.Checkpoint, Guests: s.Guests},
		Session:  s.Session, Generation: s.Generation, Hold: s.Hold, Created: s.Created, Committed: s.Committed,
	}
	var err error
	if i.CurrentView {
		i.Lag, err = c.Lag(ctx, b.Target, s)
	} else {
		var v catalog.View
		v, err = c.o.History.View(ctx, s.View)
		i.View = v.Number
	}
	if err != nil {
		return Info{}, fmt.Errorf("subscriber %q: %w", s.Name, err)
	}
	if e := c.entry(key{s.Branch, s.Name}); e != nil {
		if g := e.group.Load(); g != nil && g.sub.ID == s.ID {
			i.Members = g.infos()
		}
		c.release(e)
	}
	return i, nil
}
