// Package branch owns the life of streams and their branches: it creates and
// deletes them, changes their settings, evolves their schemas and resets their
// views, and keeps catalog, hot buffer and dataset in step while it does.
//
// The catalog is the authority; every change is one transaction there, and what
// hot buffer and dataset need is made to follow, at once or at the next start.
// Rows do not pass through here: a publish only enters a branch (see Enter), so
// that no row is appended to a view that is being replaced.
package branch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// State is a branch as it stood at one moment; immutable.
type State struct {
	Stream catalog.Stream
	Branch catalog.Branch
	Schema *schema.Schema
	// Draining are older views whose rows are still to be archived, in order.
	Draining []Draining
	// Lost is why the view can take no rows, nil if it can: the hot buffer lacks
	// rows that were acknowledged. A reset mends it.
	Lost error
}

// Draining is a view that a reset has replaced, with the schema it had then.
type Draining struct {
	catalog.View
	Schema *schema.Schema
}

// Name is what messages call the branch: namespace.name, with @branch unless it
// is main.
func (s *State) Name() string { return displayName(s.Stream.FullName(), s.Branch.Name) }

func displayName(stream, branch string) string {
	if branch == catalog.MainBranch {
		return stream
	}
	return stream + "@" + branch
}

// views lists the views that may hold rows in the hot buffer.
func (s *State) views() []catalog.View {
	views := make([]catalog.View, 0, len(s.Draining)+1)
	for _, v := range s.Draining {
		views = append(views, v.View)
	}
	return append(views, s.Branch.View)
}

// entry is an open branch. Locks are taken in the order change, gate; those of
// several branches in the order of their ids.
type entry struct {
	id catalog.BranchID
	// change lets one change of the branch happen at a time.
	change sync.Mutex
	// gate is held shared while rows are appended, and exclusively while the
	// branch changes.
	gate  sync.RWMutex
	state atomic.Pointer[State] // nil: deleted
	// stale: the catalog may be ahead of state. Set with gate held exclusively,
	// so that nobody who holds it shared appends by a state that has passed.
	stale atomic.Bool
}

func (e *entry) lock()   { e.change.Lock(); e.gate.Lock() }
func (e *entry) unlock() { e.gate.Unlock(); e.change.Unlock() }

// Options of Open.
type Options struct {
	Catalog  *catalog.Catalog
	Buffer   hotbuffer.Buffer
	Datasets *dataset.Datasets
	// Archive makes every row of a branch that is durable at the call a part of its
	// dataset; a branch made from the present state of another one begins with it.
	Archive func(ctx context.Context, id catalog.BranchID) error
	// Files deletes the files of deleted streams and branches.
	Files Files
	// TrashGrace is how long files of a deleted stream or branch stay, for readers
	// that are still at them, and for how long the making of a branch may take [1 h].
	TrashGrace time.Duration
	Now        func() time.Time
	Logger     *slog.Logger
}

// Directory holds all branches open. Safe for concurrent use.
type Directory struct {
	o Options

	// creating is held while a stream comes into being, so that nobody opens it
	// twice.
	creating sync.Mutex
	unopened map[string]bool // by key: in the catalog, and could not be opened yet

	mu        sync.RWMutex
	byName    map[string]*entry // "namespace.name@branch"
	byID      map[catalog.BranchID]*entry
	undropped map[record.ViewID]bool // gone, and still in the hot buffer
}

// Open opens every branch of a stream in the catalog (datasets without a stream
// have nothing to be opened): its table and its view in the hot
// buffer are made to exist, and views that the catalog no longer knows (a crash
// came between a deletion and its consequences) are dropped from the hot buffer.
//
// record.ErrCorrupt where the catalog was lost, or is an older copy than the hot
// buffer; nothing is dropped then. A hot buffer that was lost or is older than the
// catalog is found out per branch (State.Lost).
func Open(ctx context.Context, o Options) (*Directory, error) {
	if o.TrashGrace <= 0 {
		o.TrashGrace = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Directory{o: o, unopened: map[string]bool{}, byName: map[string]*entry{}, byID: map[catalog.BranchID]*entry{}, undropped: map[record.ViewID]bool{}}
	if err := d.checkViews(ctx); err != nil {
		return nil, err
	}
	for token := ""; ; {
		page, err := o.Catalog.ListStreams(ctx, catalog.StreamQuery{Kind: catalog.KindStream, Limit: catalog.MaxPage, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, s := range page.Streams {
			if err := d.openStream(ctx, s); err != nil {
				return nil, fmt.Errorf("open stream %s: %w", s.FullName(), err)
			}
		}
		if token = page.Next; token == "" {
			break
		}
	}
	known := map[record.ViewID]bool{}
	for _, v := range d.Views() {
		known[v] = true
	}
	for _, v := range o.Buffer.Views() {
		if !known[v] {
			o.Logger.Info("drop a view that no branch has", "view", v)
			if err := d.drop(ctx, v); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// checkViews makes sure that the catalog once gave out every view that the hot
// buffer holds: dropping what it never knew would lose rows.
func (d *Directory) checkViews(ctx context.Context) error {
	newest, err := d.o.Catalog.NewestView(ctx)
	if err != nil {
		return err
	}
	for _, v := range d.o.Buffer.Views() {
		if v > newest {
			return fmt.Errorf("the hot buffer holds view %s, but the newest in the catalog is %s: the catalog was replaced by another or an older one; restore the one that belongs to the hot buffer: %w", v, newest, record.ErrCorrupt)
		}
	}
	return nil
}

// lostRows tells whether the hot buffer has, or had, every row that a checkpoint
// covers. If not, what it appended would take the offsets of rows that are in
// the dataset or that readers have seen.
func (d *Directory) lostRows(ctx context.Context, st *State) (lost, err error) {
	v := st.Branch.View.ID
	cp, err := d.o.Catalog.LatestCheckpoint(ctx, v)
	if errors.Is(err, record.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ends, err := d.o.Buffer.Ends(v)
	if err != nil || ends.End.Covers(cp.Cut) {
		return nil, err
	}
	return fmt.Errorf("the hot buffer ends at %v, but rows up to %v were acknowledged: it was lost or is an older copy; restore the one that belongs to the catalog, or reset the stream (archived rows stay in its dataset's history): %w", ends.End, cp.Cut, record.ErrCorrupt), nil
}

func (d *Directory) openStream(ctx context.Context, s catalog.Stream) error {
	for after := catalog.BranchID(0); ; {
		branches, err := d.o.Catalog.Branches(ctx, s.ID, after, catalog.MaxPage)
		if err != nil {
			return err
		}
		for _, b := range branches {
			st, err := d.openBranch(ctx, s, b)
			if err != nil {
				return err
			}
			if st.Lost != nil {
				d.o.Logger.Error("rows are lost", "branch", st.Name(), "error", st.Lost)
			}
			after = b.ID
		}
		if len(branches) < catalog.MaxPage {
			return nil
		}
	}
}

// openBranch makes table and views exist and lists the branch.
func (d *Directory) openBranch(ctx context.Context, s catalog.Stream, b catalog.Branch) (*State, error) {
	st, err := d.follow(ctx, s, b)
	if err != nil {
		return nil, err
	}
	e := &entry{id: b.ID}
	e.state.Store(st)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byName[key(s.FullName(), b.Name)] = e
	d.byID[b.ID] = e
	return st, nil
}

// follow reads what belongs to a branch and brings table and hot buffer in step
// with it. Idempotent.
func (d *Directory) follow(ctx context.Context, s catalog.Stream, b catalog.Branch) (*State, error) {
	st := &State{Stream: s, Branch: b}
	var err error
	if st.Schema, err = d.o.Catalog.SchemaByID(ctx, b.SchemaID); err != nil {
		return nil, err
	}
	draining, err := d.o.Catalog.DrainingViews(ctx, b.ID, catalog.MaxPage) // fewer: maxDraining
	if err != nil {
		return nil, err
	}
	for _, v := range draining {
		sc, err := d.o.Catalog.SchemaByID(ctx, v.SchemaID)
		if err != nil {
			return nil, err
		}
		st.Draining = append(st.Draining, Draining{v, sc})
	}
	if err := d.ensureTable(ctx, st); err != nil {
		return nil, err
	}
	for _, v := range st.views() {
		if err := d.o.Buffer.Open(ctx, v.ID, hotSettings(b.Settings, v)); err != nil {
			return nil, err
		}
	}
	st.Lost, err = d.lostRows(ctx, st)
	return st, err
}

// ensureTable creates the branch's table unless it is there: a crash, or an
// error, came between the catalog's transaction and this.
func (d *Directory) ensureTable(ctx context.Context, st *State) error {
	_, err := d.o.Catalog.TablePointer(ctx, st.Branch.TableUUID)
	if !errors.Is(err, record.ErrNotFound) {
		return err
	}
	_, err = d.o.Datasets.Create(ctx, st.Branch.TableUUID, st.Schema, map[string]string{
		"thermocline.stream": st.Stream.FullName(), "thermocline.branch": st.Branch.Name,
	})
	if errors.Is(err, record.ErrExists) {
		return nil
	}
	return err
}

// drop drops a view from the hot buffer.
func (d *Directory) drop(ctx context.Context, v record.ViewID) error {
	if err := d.o.Buffer.Drop(ctx, v); err != nil && !errors.Is(err, record.ErrNotFound) {
		return fmt.Errorf("drop view %s: %w", v, err)
	}
	return nil
}

func hotSettings(s catalog.Settings, v catalog.View) hotbuffer.Settings {
	return hotbuffer.Settings{Type: hotbuffer.Type(s.Type), Compressed: s.Compressed, Partitions: v.Partitions}
}

func key(stream, branch string) string { return stream + "@" + branch }

// find returns the entry of a branch. stream may lack its namespace.
func (d *Directory) find(stream, branch string) (*entry, *State, error) {
	ns, name, err := catalog.ParseName(stream)
	if err != nil {
		return nil, nil, err
	}
	full := ns + "." + name
	d.mu.RLock()
	e := d.byName[key(full, branch)]
	main := d.byName[key(full, catalog.MainBranch)]
	d.mu.RUnlock()
	if e != nil {
		if st := e.state.Load(); st != nil {
			return e, st, nil
		}
	}
	if main == nil {
		return nil, nil, fmt.Errorf("stream %s: %w", full, record.ErrNotFound)
	}
	return nil, nil, fmt.Errorf("branch %q of stream %s: %w", branch, full, record.ErrNotFound)
}

// Resolve returns the state of a branch. Unknown: record.ErrNotFound.
func (d *Directory) Resolve(stream, branch string) (*State, error) {
	_, st, err := d.find(stream, branch)
	return st, err
}

// All lists the states of all branches, in no order.
func (d *Directory) All() []*State {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make([]*State, 0, len(d.byID))
	for _, e := range d.byID {
		if st := e.state.Load(); st != nil {
			all = append(all, st)
		}
	}
	return all
}

// Views lists the views that rows may be read from or archived: the active and
// the draining ones.
func (d *Directory) Views() []record.ViewID {
	var views []record.ViewID
	for _, st := range d.All() {
		for _, v := range st.Draining {
			views = append(views, v.ID)
		}
		views = append(views, st.Branch.View.ID)
	}
	return views
}
