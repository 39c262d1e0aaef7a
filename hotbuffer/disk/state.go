package disk

import (
	"cmp"
	"maps"
	"slices"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// state is what the frames of a log add up to, commit by commit: that which a
// checkpoint holds.
type state struct {
	views     map[record.ViewID]*viewState
	producers *producers
	commit    uint64 // number of the last commit
	clean     bool   // it holds a close frame

	// Of the commit that is being visited.
	closed   bool
	requests []request
}

// request is a producer's request as its frames tell it.
type request struct {
	view     record.ViewID
	producer hotbuffer.Producer
	ranges   []hotbuffer.PartRange
}

func newState(producerRanges int) *state {
	return &state{views: make(map[record.ViewID]*viewState), producers: newProducers(producerRanges)}
}

// checkpoint brings the state to that of a checkpoint: it says the same as the
// frames before it, and more where those are gone.
func (s *state) checkpoint(views []viewState) {
	known := make(map[record.ViewID]bool, len(views))
	for _, c := range views {
		known[c.id] = true
		v := s.view(c.id)
		v.lastTimestamp = max(v.lastTimestamp, c.lastTimestamp)
		for p := range c.next {
			v.reach(record.Partition(p), c.next[p])
			v.released[p] = max(v.released[p], c.released[p])
		}
	}
	maps.DeleteFunc(s.views, func(id record.ViewID, _ *viewState) bool { return !known[id] })
}

func (s *state) view(id record.ViewID) *viewState {
	v := s.views[id]
	if v == nil {
		v = &viewState{id: id}
		s.views[id] = v
	}
	return v
}

// reach makes sure that the next offset is at least next.
func (v *viewState) reach(p record.Partition, next record.Offset) {
	for int(p) >= len(v.next) {
		v.next, v.released = append(v.next, 0), append(v.released, 0)
	}
	v.next[p] = max(v.next[p], next)
}

// frame adds a frame behind the checkpoint.
func (s *state) frame(h *frameHeader, batch record.Batch, payload []byte) {
	switch h.kind {
	case rowsFrame:
		v := s.view(h.view)
		v.reach(h.partition, batch.End())
		v.lastTimestamp = max(v.lastTimestamp, batch.Timestamp())
		s.request(h, hotbuffer.PartRange{Partition: h.partition, Range: record.Range{Start: batch.BaseOffset(), End: batch.End()}})
	case emptyFrame:
		s.view(h.view)
		s.request(h, hotbuffer.PartRange{})
	case releaseFrame:
		v := s.view(h.view)
		for p := range len(payload) / 8 {
			off := record.Offset(be.Uint64(payload[p*8:]))
			v.reach(record.Partition(p), off)
			v.released[p] = max(v.released[p], off)
		}
	case dropFrame:
		delete(s.views, h.view)
		s.producers.dropView(h.view)
	case closeFrame:
		s.closed = true
	}
}

// request gathers the ranges of one request, whose frames stand apart where it
// has rows in several partitions, or more than one batch holds.
func (s *state) request(h *frameHeader, r hotbuffer.PartRange) {
	if h.producer == nil {
		return
	}
	i := slices.IndexFunc(s.requests, func(q request) bool { return q.view == h.view && q.producer == *h.producer })
	if i < 0 {
		i = len(s.requests)
		s.requests = append(s.requests, request{view: h.view, producer: *h.producer})
	}
	if r.Len() == 0 {
		return
	}
	q := &s.requests[i]
	if n := len(q.ranges); n > 0 && q.ranges[n-1].Partition == r.Partition {
		q.ranges[n-1].End = r.End
		return
	}
	q.ranges = append(q.ranges, r)
}

// ended ends a commit.
func (s *state) ended(h commitHeader) {
	slices.SortStableFunc(s.requests, func(a, b request) int {
		return cmp.Or(cmp.Compare(a.producer.Epoch, b.producer.Epoch), cmp.Compare(a.producer.Sequence, b.producer.Sequence))
	})
	for _, r := range s.requests {
		s.producers.apply(r.view, &r.producer, r.ranges, h.timestamp)
	}
	s.requests = s.requests[:0]
	s.commit, s.clean, s.closed = h.number, s.closed, false
}
