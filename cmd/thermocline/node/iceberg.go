package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	ice "github.com/apache/iceberg-go"
	"github.com/google/uuid"

	"github.com/thermocline/thermocline/api/iceberg"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// tables is the node as the Iceberg REST catalog sees it.
type tables struct{ n *Node }

// find returns the branch that a table is.
func (t tables) find(ctx context.Context, r iceberg.Ref) (catalog.Stream, catalog.Branch, error) {
	s, b, err := t.n.catalog.Resolve(ctx, r.Namespace, r.Name, r.Branch)
	if err != nil {
		return s, b, fmt.Errorf("table %s: %w", r, err)
	}
	return s, b, nil
}

// shown is a table as clients see it. Field ids are counted over all branches, so
// that the files of one can be added to another.
func shown(s catalog.Stream, t *dataset.Table, kept bool) iceberg.Table {
	out := iceberg.Table{MetadataLocation: t.MetadataLocation(), Metadata: t.Metadata(), LastFieldID: s.NextFieldID - 1, Properties: map[string]string{}}
	if kept {
		out.Properties[gcEnabled] = "false"
	}
	if s.Kind == catalog.KindStream {
		for _, key := range isolationLevels {
			if t.Property(key) == "" {
				out.Properties[key] = "snapshot"
			}
		}
	}
	return out
}

// isolationLevels are table properties by which engines decide whether a statement
// that changes rows fails when others were added meanwhile. They do so to a stream all
// the time.
var isolationLevels = []string{"write.delete.isolation-level", "write.update.isolation-level", "write.merge.isolation-level"}

// gcEnabled is the table property that keeps engines from deleting files. When they
// expire snapshots, remove orphans or purge a table, Spark and others delete the
// files themselves, past the server, which other branches and running reads may need.
const gcEnabled = "gc.enabled"

// keepsFiles tells whether only the server may delete files of the table: a
// stream's, and those of a dataset with more than one branch.
func (t tables) keepsFiles(ctx context.Context, s catalog.Stream) (bool, error) {
	if s.Kind == catalog.KindStream {
		return true, nil
	}
	branches, err := t.n.catalog.Branches(ctx, s.ID, 0, 2)
	return len(branches) > 1, err
}

// checkUpdates refuses a change that would let engines delete files.
func (t tables) checkUpdates(ctx context.Context, r iceberg.Ref, s catalog.Stream, u *dataset.Updates) (kept bool, err error) {
	kept, err = t.keepsFiles(ctx, s)
	if err == nil && kept && u.ChangesProperty(gcEnabled) {
		err = fmt.Errorf("the property %s is false and stays, because branches and readers share files; use: thermocline dataset expire, thermocline dataset gc: %w", gcEnabled, record.ErrInvalid)
	}
	if err != nil {
		err = fmt.Errorf("commit to %s: %w", r, err)
	}
	return kept, err
}

func (t tables) Table(ctx context.Context, r iceberg.Ref, fresh bool) (iceberg.Table, error) {
	s, b, err := t.find(ctx, r)
	if err != nil {
		return iceberg.Table{}, err
	}
	if fresh && s.Kind == catalog.KindStream {
		if _, err := t.n.archiver.Archive(ctx, b.ID); err != nil {
			return iceberg.Table{}, fmt.Errorf("archive %s before it is loaded: %w", r, err)
		}
	}
	loaded, err := t.n.datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("table %s: %w", r, err)
	}
	// What is cached would hide that the file has gone.
	there, err := loaded.MetadataExists(ctx)
	if err == nil && !there {
		err = &iceberg.MissingMetadataError{Location: loaded.MetadataLocation()}
	}
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("table %s: %w", r, err)
	}
	kept, err := t.keepsFiles(ctx, s)
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("table %s: %w", r, err)
	}
	return shown(s, loaded, kept), nil
}

func (t tables) Commit(ctx context.Context, r iceberg.Ref, u *dataset.Updates) (iceberg.Table, error) {
	s, b, err := t.find(ctx, r)
	if err != nil {
		return iceberg.Table{}, err
	}
	kept, err := t.checkUpdates(ctx, r, s, u)
	if err != nil {
		return iceberg.Table{}, err
	}
	next, err := t.n.datasets.CommitUpdates(ctx, b.TableUUID, u, t.options(ctx, s, b))
	if errors.Is(err, record.ErrFenced) {
		err = fmt.Errorf("a stream was started on it meanwhile; load the table again: %s: %w", err.Error(), record.ErrConflict)
	}
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("commit to %s: %w", r, err)
	}
	if u.ChangesSchema() {
		if s, err = t.n.catalog.StreamByID(ctx, s.ID); err != nil {
			return iceberg.Table{}, fmt.Errorf("commit to %s: it is made, but: %w: %w", r, dataset.ErrOutcomeUnknown, err)
		}
	}
	return shown(s, next, kept), nil
}

// options say what may become of a table: a stream's is guarded, and its schema is
// the catalog's first.
func (t tables) options(ctx context.Context, s catalog.Stream, b catalog.Branch) dataset.UpdateOptions {
	o := dataset.UpdateOptions{LastFieldID: s.NextFieldID - 1, Key: iceberg.Key(ctx)}
	if s.Kind != catalog.KindStream {
		// These options are void once a stream was started on it.
		o.Swap = func(ctx context.Context, from, to string, _ int64) error {
			return t.n.catalog.SwapDatasetPointer(ctx, b.TableUUID, from, to)
		}
		first := s.NextFieldID
		o.Schema = func(ctx context.Context, _ *dataset.Table, next *ice.Schema) (int32, error) {
			if next.HighestFieldID() < first {
				return 0, nil
			}
			// So that no other branch gives them to other columns. A crash behind it
			// leaves ids that no column has.
			err := t.n.catalog.TakeFieldIDs(ctx, s.ID, first, next.HighestFieldID()+1)
			if errors.Is(err, record.ErrConflict) {
				if now, rerr := t.n.catalog.StreamByID(ctx, s.ID); rerr == nil {
					return 0, dataset.FieldIDsTaken(first-1, now.NextFieldID-1)
				}
			}
			if err == nil {
				first = next.HighestFieldID() + 1 // of another attempt
			}
			return 0, err
		}
		return o
	}
	o.View = b.View.Number
	o.Schema = func(ctx context.Context, now *dataset.Table, next *ice.Schema) (int32, error) {
		st, err := t.n.directory.Adopt(ctx, s.FullName(), b.Name, nil, func(current *schema.Schema) (*schema.Schema, error) {
			// The table may lag behind the catalog until the next archive. What the
			// client did not know of it must not drop.
			seen, err := schema.Follow(current, now.Schema())
			if err != nil {
				return nil, err
			}
			if !seen.Equal(&schema.Schema{ID: seen.ID, Fields: current.Fields}) {
				return nil, errTableLags
			}
			return schema.Follow(current, next)
		})
		if errors.Is(err, errTableLags) {
			st, rerr := t.n.directory.ByID(b.ID)
			if rerr == nil && len(st.Draining) == 0 { // else rows of an older schema are yet to come
				_, rerr = t.n.datasets.SetSchema(ctx, b.TableUUID, st.Schema)
			}
			return 0, errors.Join(fmt.Errorf("the stream's schema has changed; load the table again: %w", record.ErrConflict), rerr)
		}
		if errors.Is(err, record.ErrInvalid) {
			// Perhaps only because another branch has taken the ids since the client
			// loaded the table; some clients do not say which ids they counted on.
			stream, rerr := t.n.catalog.StreamByID(ctx, s.ID)
			if rerr == nil && (stream.NextFieldID != s.NextFieldID || countsOnTakenIDs(now, next, stream.NextFieldID)) {
				return 0, dataset.FieldIDsTaken(now.Metadata().LastColumnID(), stream.NextFieldID-1)
			}
		}
		if err != nil {
			return 0, err
		}
		return st.Schema.ID, nil
	}
	return o
}

// countsOnTakenIDs tells whether a schema gives ids below free to fields that its
// table never had.
func countsOnTakenIDs(now *dataset.Table, next *ice.Schema, free int) bool {
	fields, err := ice.IndexByID(next)
	if err != nil {
		return false
	}
	for id := range fields {
		known := id >= free
		for _, s := range now.Metadata().Schemas() {
			if _, ok := s.FindFieldByID(id); ok {
				known = true
			}
		}
		if !known {
			return true
		}
	}
	return false
}

// errTableLags: the stream has a newer schema than its table.
var errTableLags = errors.New("the table has an older schema than the stream")

func (t tables) Tables(ctx context.Context, namespace, branch string, p iceberg.Page) ([]string, string, error) {
	if _, err := t.Namespace(ctx, namespace); err != nil {
		return nil, "", err
	}
	var names []string
	for q := (catalog.StreamQuery{Namespace: namespace, Branch: branch, Limit: p.Size, PageToken: p.Token}); ; {
		if p.Size == 0 {
			q.Limit = catalog.MaxPage
		}
		page, err := t.n.catalog.ListStreams(ctx, q)
		if err != nil {
			return nil, "", err
		}
		for _, s := range page.Streams {
			names = append(names, s.Name)
		}
		if p.Size > 0 || page.Next == "" {
			return names, page.Next, nil
		}
		q.PageToken = page.Next
	}
}

func (t tables) CreateTable(ctx context.Context, r iceberg.Ref, n iceberg.NewTable) (iceberg.Table, error) {
	if err := t.creatable(ctx, r); err != nil {
		return t.created(ctx, r, err)
	}
	id := uuid.NewString()
	draft := dataset.NewTable{Schema: n.Schema, Spec: n.Spec, Order: n.Order, Properties: n.Properties}
	if !n.Stage {
		draft.Key = iceberg.Key(ctx) // of a draft the client sends back all properties
	}
	m, err := t.n.datasets.Draft(id, draft)
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("create table %s: %w", r, err)
	}
	if n.Stage {
		return iceberg.Table{Metadata: m}, nil
	}
	location, err := t.n.datasets.WriteMetadata(ctx, m)
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("create table %s: %w", r, err)
	}
	if err := t.create(ctx, r, id, location, false); err != nil {
		return iceberg.Table{}, err
	}
	return iceberg.Table{MetadataLocation: location, Metadata: m}, nil
}

func (t tables) CreateStaged(ctx context.Context, r iceberg.Ref, u *dataset.Updates) (iceberg.Table, error) {
	if err := t.creatable(ctx, r); err != nil {
		return t.created(ctx, r, err)
	}
	id, m, err := t.n.datasets.DraftUpdates(ctx, u, iceberg.Key(ctx))
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("create table %s: %w", r, err)
	}
	location, err := t.n.datasets.WriteMetadata(ctx, m)
	if err != nil {
		return iceberg.Table{}, fmt.Errorf("create table %s: %w", r, err)
	}
	if err := t.create(ctx, r, id, location, false); err != nil {
		return iceberg.Table{}, err
	}
	return iceberg.Table{MetadataLocation: location, Metadata: m}, nil
}

// created returns the table that this very request has made before its process ended,
// and else the error that says why it cannot be made.
func (t tables) created(ctx context.Context, r iceberg.Ref, err error) (iceberg.Table, error) {
	key := iceberg.Key(ctx)
	if key == "" || !errors.Is(err, record.ErrExists) {
		return iceberg.Table{}, err
	}
	there, lerr := t.Table(ctx, r, false)
	if lerr == nil && there.Metadata.Properties()[dataset.KeyProperty] == key {
		return there, nil
	}
	return iceberg.Table{}, errors.Join(err, lerr)
}

// creatable tells whether a table of the name can be made.
func (t tables) creatable(ctx context.Context, r iceberg.Ref) error {
	if r.Branch != catalog.MainBranch {
		return fmt.Errorf("create table %s: a table begins with its branch main; create it there, and then the branch from it: %w", r, record.ErrInvalid)
	}
	if _, err := t.Namespace(ctx, r.Namespace); err != nil {
		return err
	}
	_, err := t.n.catalog.Stream(ctx, r.Namespace, r.Name)
	if err == nil {
		return fmt.Errorf("table %s: %w", r, record.ErrExists)
	}
	if errors.Is(err, record.ErrNotFound) {
		return nil
	}
	return err
}

// create gives the metadata at location its name. A crash before leaves a file that
// nothing names.
func (t tables) create(ctx context.Context, r iceberg.Ref, id, location string, registered bool) error {
	_, _, err := t.n.catalog.CreateDataset(ctx, catalog.NewDataset{
		Namespace: r.Namespace, Name: r.Name, TableUUID: id, Location: location, Revive: registered,
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, catalog.ErrOutcomeUnknown):
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), catalog.CallTimeout)
		defer cancel()
		at, lerr := t.n.catalog.TablePointer(look, id)
		switch {
		case lerr == nil && at == location:
			return nil
		case !errors.Is(lerr, record.ErrNotFound):
			return fmt.Errorf("create table %s: %w: %w", r, dataset.ErrOutcomeUnknown, errors.Join(err, lerr))
		}
	case !registered:
		t.n.datasets.DropMetadata(context.WithoutCancel(ctx), location)
	}
	return fmt.Errorf("create table %s: %w", r, err)
}

// How long the files of a dropped table stay: for readers that are at them, and for
// a client that may register the table again.
const (
	purgeGrace = time.Hour
	dropGrace  = 5 * 24 * time.Hour
)

// DropTable takes a dataset without a stream out of the catalog; its files go to the
// trash.
func (t tables) DropTable(ctx context.Context, r iceberg.Ref, purge bool) error {
	s, _, err := t.find(ctx, r)
	if err != nil {
		return err
	}
	if err := t.onlyTable(ctx, "drop", r, s); err != nil {
		return err
	}
	grace := dropGrace
	if purge {
		grace = purgeGrace
	}
	_, err = t.n.catalog.DeleteStream(ctx, s.ID, time.Now().Add(grace))
	return err
}

func (t tables) RenameTable(ctx context.Context, from, to iceberg.Ref) error {
	s, _, err := t.find(ctx, from)
	if err != nil {
		return err
	}
	if _, err := t.Namespace(ctx, to.Namespace); err != nil {
		return err
	}
	if s.Kind == catalog.KindStream {
		return fmt.Errorf("rename %s: it is a live stream, which its publishers know by this name: %w", from, record.ErrInvalid)
	}
	if from.Branch != to.Branch {
		return fmt.Errorf("rename %s to %s: a table keeps its branches: %w", from, to, record.ErrInvalid)
	}
	_, err = t.n.catalog.RenameStream(ctx, s.ID, to.Namespace, to.Name)
	return err
}

// RegisterTable gives a table that is in the warehouse already, and in no catalog, a
// name: one that was dropped, or that another engine wrote there.
func (t tables) RegisterTable(ctx context.Context, r iceberg.Ref, location string, overwrite bool) (iceberg.Table, error) {
	fail := func(err error) (iceberg.Table, error) {
		return iceberg.Table{}, fmt.Errorf("register table %s: %w", r, err)
	}
	err := t.creatable(ctx, r)
	if errors.Is(err, record.ErrExists) && overwrite {
		return fail(fmt.Errorf("it exists, and a table cannot be replaced by another; drop it first: %w", record.ErrInvalid))
	}
	if err != nil {
		return iceberg.Table{}, err
	}
	loaded, err := t.n.datasets.Foreign(ctx, location)
	if err != nil {
		return fail(err)
	}
	if err := t.create(ctx, r, loaded.ID(), location, true); err != nil {
		return iceberg.Table{}, err
	}
	return iceberg.Table{MetadataLocation: location, Metadata: loaded.Metadata()}, nil
}

// CommitAll changes the tables of one transaction.
func (t tables) CommitAll(ctx context.Context, changes []iceberg.Change) error {
	all := make([]dataset.TableUpdates, len(changes))
	for i, c := range changes {
		if c.Updates.Creates() {
			return fmt.Errorf("commit to %s: a transaction cannot create tables; create it before: %w", c.Ref, record.ErrInvalid)
		}
		s, b, err := t.find(ctx, c.Ref)
		if err != nil {
			return err
		}
		if _, err := t.checkUpdates(ctx, c.Ref, s, c.Updates); err != nil {
			return err
		}
		all[i] = dataset.TableUpdates{ID: b.TableUUID, Updates: c.Updates, Options: t.options(ctx, s, b)}
	}
	return t.n.datasets.CommitAllUpdates(ctx, all)
}

// onlyTable makes sure that a table stands for itself: it is no stream, and has one
// branch.
func (t tables) onlyTable(ctx context.Context, what string, r iceberg.Ref, s catalog.Stream) error {
	if s.Kind == catalog.KindStream {
		return fmt.Errorf("%s %s: it is the table of a live stream; delete the stream with: thermocline stream delete %s: %w", what, r, s.FullName(), record.ErrInvalid)
	}
	branches, err := t.n.catalog.Branches(ctx, s.ID, 0, 2)
	if err == nil && (len(branches) > 1 || r.Branch != catalog.MainBranch) {
		err = fmt.Errorf("%s %s: the dataset has other branches; delete them first, with: thermocline branch delete %s NAME: %w", what, r, s.FullName(), record.ErrInvalid)
	}
	return err
}
