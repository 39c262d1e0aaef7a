package node

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/writer"
)

// names3 lists the streams that exist.
func (m *machine) names3() []string { return slices.Sorted(maps.Keys(m.streams)) }

// pick returns one of the streams, nil if there is none.
func (m *machine) pick(r *rand.Rand) *modelStream {
	if m.only != nil {
		return m.only
	}
	names := m.names3()
	if len(names) == 0 {
		return nil
	}
	return m.streams[names[r.IntN(len(names))]]
}

func (m *machine) state(s *modelStream) *branch.State {
	st, err := m.node.directory.Resolve(s.name, "main")
	m.must("resolve "+s.name, err)
	return st
}

// try makes a change during which, sometimes, a call between the parts of the
// node fails: then nobody knows whether it was made. (What could not be dropped with
// a stream is left for later, without an error.) Whoever comes next, in this
// process or another one, must find a node that has made it or has not.
func (m *machine) try(r *rand.Rand, what string, change func() error) (known bool) {
	if m.calm || r.IntN(3) > 0 {
		m.must(what, change())
		return true
	}
	m.faults.arm(1+r.IntN(6), r.IntN(2) == 0, "")
	err := change()
	struck := m.faults.disarm()
	if err == nil {
		return struck == "" || what != "delete"
	}
	if struck == "" || !errors.Is(err, errInjected) {
		m.fail("%s, with %q failing: %w", what, struck, err)
	}
	m.count(what + " with a fault")
	return false
}

// after brings the node to where it knows what has become of a change.
func (m *machine) after(r *rand.Rand, s *modelStream) {
	switch r.IntN(4) {
	case 0:
		m.reopen(r, false)
	case 1:
		m.reopen(r, true)
	default:
		// Whoever enters a branch finds it in step, or brings it there.
		_, err := m.send(s, writer.Request{Format: writer.JSON, Body: []byte(`{"n":0,"k":null}`)})
		if rejected := (*writer.RejectedError)(nil); !errors.As(err, &rejected) {
			m.fail("publish of a bad row behind a change that failed: %v", err)
		}
	}
}

func (m *machine) randomSettings(r *rand.Rand) catalog.Settings {
	s := catalog.Settings{
		Partitions: 1 + r.IntN(3), Compressed: r.IntN(2) == 0, ArchiveInterval: catalog.MaxArchiveInterval,
		DatasetFormat: []catalog.DatasetFormat{catalog.Parquet, catalog.Avro}[r.IntN(2)],
		Consistency:   []catalog.Consistency{catalog.AtLeastOnce, catalog.ExactlyOnce}[r.IntN(2)],
		Type:          []catalog.StreamType{catalog.LowLatency, catalog.LowLatency, catalog.LowLatency, catalog.HighThroughput}[r.IntN(4)],
		HotRetention:  []time.Duration{0, 0, 30 * time.Second}[r.IntN(3)],
	}
	if r.IntN(3) > 0 {
		s.KeyFields = []string{"k"}
	}
	s.Partitioning = layouts[r.IntN(len(layouts))]
	s.SortOrder = [][]string{nil, nil, {"k"}, {"n desc", "k nulls last"}, {"_timestamp desc"}}[r.IntN(5)]
	s.BloomFilters = [][]string{nil, {"k"}, {"n", "k"}}[r.IntN(3)]
	return s
}

var layouts = [][]string{
	nil, nil, {"k"}, {"bucket[3](n)"}, {"truncate[1](k)", "truncate[5](n)"}, {"hour(_timestamp)"}, {"bucket[2](k)", "day(_timestamp)"}, {"n"},
}

func (m *machine) randomSchema(r *rand.Rand) *schema.Schema {
	s := &schema.Schema{Fields: []schema.Field{
		{Name: "n", Type: schema.Type{Kind: schema.Long}}, {Name: "k", Type: schema.Type{Kind: schema.String}},
	}}
	for range r.IntN(4) {
		m.names++
		f := newField(r, fmt.Sprintf("f%d", m.names))
		if r.IntN(3) == 0 {
			f.Nullable, f.Default = false, nil
		}
		s.Fields = append(s.Fields, f)
	}
	return s
}

func (m *machine) opCreate(r *rand.Rand) bool {
	name := fmt.Sprintf("s%d", r.IntN(3))
	settings, sc := m.randomSettings(r), m.randomSchema(r)
	create := func() error {
		_, err := m.node.directory.Create(m.ctx, name, sc, settings)
		return err
	}
	if m.streams[name] != nil {
		if err := create(); !errors.Is(err, record.ErrExists) {
			m.fail("create %s, which exists: %v", name, err)
		}
		return true
	}
	if !m.try(r, "create", create) {
		if r.IntN(2) == 0 {
			m.reopen(r, r.IntN(2) == 0)
		}
		if err := create(); err != nil && !errors.Is(err, record.ErrExists) {
			m.fail("create %s, asked again: %w", name, err)
		}
	}
	s := &modelStream{name: name, settings: settings.WithDefaults()}
	st := m.state(s)
	s.view = newModelView(st.Branch.View.ID, st.Branch.View.Number, settings.Partitions, st.Schema)
	if !reflect.DeepEqual(st.Branch.Settings, s.settings) || !sameFields(st.Schema, sc) {
		m.fail("created %s with %+v and %+v, want %+v and %+v", name, st.Branch.Settings, st.Schema, s.settings, sc)
	}
	m.streams[name] = s
	return true
}

// sameFields tells whether two schemas differ in nothing but the ids that were
// not given yet.
func sameFields(got, asked *schema.Schema) bool {
	a, _ := got.FreshIDs(1)
	b, _ := asked.FreshIDs(1)
	a.ID, b.ID = 0, 0
	return a.Equal(b)
}

func (m *machine) opDelete(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	remove := func() error { return m.b.Streams.DeleteStream(m.ctx, s.name) }
	if !m.try(r, "delete", remove) {
		// In this process, what could not be dropped is dropped when Run comes to
		// it, and its tails go on until then.
		m.reopen(r, r.IntN(2) == 0)
		if err := remove(); err != nil && !errors.Is(err, record.ErrNotFound) {
			m.fail("delete %s, asked again: %w", s.name, err)
		}
	}
	delete(m.streams, s.name)
	m.leaveTails(s.view)
	if _, err := m.b.Reader.Read(m.ctx, s.name, "main", reader.Request{}); !errors.Is(err, record.ErrNotFound) {
		m.fail("read of a deleted stream: %v", err)
	}
	return true
}

func (m *machine) opSettings(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	want, p := s.settings, api.SettingsPatch{}
	some := m.randomSettings(r)
	if r.IntN(2) == 0 {
		kind := hotbuffer.Type(some.Type)
		want.Type, p.Type = some.Type, &kind
	}
	if r.IntN(2) == 0 {
		want.Compressed, p.Compressed = some.Compressed, &some.Compressed
	}
	if r.IntN(2) == 0 && want.Partitions < 6 {
		want.Partitions++
		p.Partitions = &want.Partitions
	}
	if r.IntN(2) == 0 {
		want.KeyFields, p.KeyFields = some.KeyFields, &some.KeyFields
	}
	if r.IntN(2) == 0 {
		format := api.DatasetFormat(some.DatasetFormat)
		want.DatasetFormat, p.DatasetFormat = some.DatasetFormat, &format
	}
	if r.IntN(2) == 0 {
		want.HotRetention, p.HotRetention = some.HotRetention, &some.HotRetention
	}
	if r.IntN(2) == 0 {
		want.Partitioning, p.Partitioning = some.Partitioning, &some.Partitioning
	}
	if r.IntN(2) == 0 {
		want.SortOrder, p.SortOrder = some.SortOrder, &some.SortOrder
	}
	if r.IntN(2) == 0 {
		want.BloomFilters, p.BloomFilters = some.BloomFilters, &some.BloomFilters
	}
	if r.IntN(2) == 0 {
		want.Consistency, p.Consistency = some.Consistency, &some.Consistency
	}
	around := r.IntN(2) == 0 // a key may move to another partition here
	if around {
		m.publish(r, s)
	}
	known := m.try(r, "settings", func() error {
		_, err := m.b.Streams.UpdateSettings(m.ctx, s.name, "main", p)
		return err
	})
	if !known {
		m.after(r, s)
	}
	switch got := m.state(s).Branch.Settings; {
	case sameSettings(got, want):
		s.settings = want
	case known || !sameSettings(got, s.settings):
		m.fail("settings of %s are %+v, want %+v or, if unknown, %+v", s.name, got, want, s.settings)
	}
	for len(s.view.ends) < s.settings.Partitions {
		s.view.ends = s.view.ends.With(record.Partition(len(s.view.ends)), 0)
	}
	if around {
		m.publish(r, s)
		m.settle(s)
	}
	return true
}

func sameSettings(a, b catalog.Settings) bool {
	if !slices.Equal(a.KeyFields, b.KeyFields) {
		return false
	}
	a.KeyFields, b.KeyFields = nil, nil
	return reflect.DeepEqual(a, b)
}

func (m *machine) opEvolve(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	proposed, what := evolved(r, s.view.schema, &m.names)
	if what == "" {
		return false
	}
	known := m.try(r, "evolve", func() error {
		_, err := m.b.Schemas.Evolve(m.ctx, s.name, "main", proposed)
		return err
	})
	if !known {
		m.after(r, s)
	}
	got := m.state(s).Schema
	switch {
	case sameFields(got, proposed):
		if err := carried(s.view.schema, proposed, got); err != nil {
			m.fail("evolve (%s) of %s: %w", what, s.name, err)
		}
		s.view.schema = got
		m.count("evolve: " + what)
	case known || !sameFields(got, s.view.schema):
		m.fail("evolve (%s) of %s gave %+v, want %+v", what, s.name, got, proposed)
	}
	return true
}

// carried checks that fields that go on kept their ids, and new ones have new.
func carried(old, proposed, got *schema.Schema) error {
	for i, f := range got.Fields {
		if id := proposed.Fields[i].ID; id != 0 && id != f.ID || id == 0 && f.ID <= old.MaxID() {
			return fmt.Errorf("field %q has the id %d, was proposed with %d, and %d is the largest of before", f.Name, f.ID, id, old.MaxID())
		}
	}
	return nil
}

func (m *machine) opReset(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	m.settle(s) // what the old view holds must be in the history
	var proposed *schema.Schema
	if r.IntN(2) == 0 {
		proposed = m.randomSchema(r)
	}
	partitions := 1 + r.IntN(4)
	known := m.try(r, "reset", func() error {
		_, err := m.b.Streams.Reset(m.ctx, s.name, "main", proposed, api.SettingsPatch{Partitions: &partitions})
		if errors.Is(err, record.ErrBusy) && len(s.old) >= 32 {
			return nil
		}
		return err
	})
	if !known {
		m.after(r, s)
	}
	st := m.state(s)
	switch v := st.Branch.View; {
	case v.Number == s.view.number+1 && v.ID != s.view.id:
		if proposed != nil && !sameFields(st.Schema, proposed) || proposed == nil && !st.Schema.Equal(s.view.schema) {
			m.fail("reset %s to %+v, got %+v", s.name, proposed, st.Schema)
		}
		s.old = append(s.old, s.view)
		s.archived = false
		s.settings.Partitions = partitions
		m.leaveTails(s.view)
		s.view = newModelView(v.ID, v.Number, partitions, st.Schema)
	case known && len(s.old) < 32 || v.ID != s.view.id:
		m.fail("reset of %s left view %d, was %d", s.name, v.Number, s.view.number)
	}
	return true
}
