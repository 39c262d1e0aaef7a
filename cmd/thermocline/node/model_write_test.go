package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/schema/ocf"
	"github.com/thermocline/thermocline/writer"
)

func (m *machine) send(s *modelStream, q writer.Request) (writer.Result, error) {
	q.Stream, q.Branch = s.name, "main"
	return m.node.writer.Publish(m.ctx, q)
}

func requestRows(r *rand.Rand) int {
	if r.IntN(12) == 0 {
		return 100 + r.IntN(200)
	}
	return 1 + r.IntN(8)
}

// encoded is a request in a random format.
func (m *machine) encoded(r *rand.Rand, s *modelStream, q *modelRequest) writer.Request {
	body := q.body(s.view.schema)
	out := writer.Request{Format: []writer.Format{writer.JSON, writer.JSON, writer.Avro, writer.Arrow}[r.IntN(4)]}
	m.count("publish " + string(out.Format))
	if out.Format == writer.JSON {
		out.Body = body
		return out
	}
	sc := s.view.schema
	toAvro, err := schema.CompileJSONToAvro(sc, schema.JSONOptions{})
	m.must("compile", err)
	var data [][]byte
	m.must("encode rows", schema.SplitJSON(body, func(_ int, raw []byte) error {
		d, err := toAvro.Row(nil, raw)
		data = append(data, d)
		return err
	}))
	var b bytes.Buffer
	if out.Format == writer.Avro {
		w, err := ocf.NewWriter(&b, sc.Avro(), []ocf.Codec{ocf.Null, ocf.Deflate, ocf.Snappy, ocf.Zstd}[r.IntN(4)], nil)
		m.must("container", err)
		for _, d := range data {
			m.must("container", w.Append(d))
		}
		m.must("container", w.Close())
		out.Body = b.Bytes()
		return out
	}
	toArrow, err := schema.CompileAvroToArrow(sc, sc)
	m.must("compile", err)
	builder := schema.NewBuilder(sc, memory.DefaultAllocator)
	defer builder.Release()
	for _, d := range data {
		m.must("column", toArrow.Append(builder, d))
	}
	batch := builder.NewBatch()
	defer batch.Release()
	w := ipc.NewWriter(&b, ipc.WithSchema(batch.Schema()))
	m.must("arrow stream", w.Write(batch))
	m.must("arrow stream", w.Close())
	out.Body = b.Bytes()
	return out
}

func (m *machine) acked(s *modelStream, q *modelRequest, ranges []hotbuffer.PartRange) {
	m.must("acknowledgement of "+s.name, s.view.ack(q, ranges))
	s.view.grow(ranges)
	m.rows += int64(len(q.rows))
}

func (m *machine) opPublish(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	m.publish(r, s)
	return true
}

func (m *machine) publish(r *rand.Rand, s *modelStream) {
	q := m.request(r, s, requestRows(r))
	out, err := m.send(s, m.encoded(r, s, q))
	m.must("publish", err)
	if out.Duplicate || out.Rows != int64(len(q.rows)) || out.RejectedRows != 0 {
		m.fail("publish of %d rows answered %+v", len(q.rows), out)
	}
	m.acked(s, q, out.Ranges)
}

// Bad rows reject their request, or are left out of it.
func (m *machine) opPublishBad(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	skip := r.IntN(2) == 0
	q := m.request(r, s, 1+r.IntN(5))
	body := append([]byte(`{"n":0,"k":null}`+"\n"), q.body(s.view.schema)...)
	out, err := m.send(s, writer.Request{Format: writer.JSON, Body: body, SkipInvalid: skip})
	if !skip {
		if rejected := (*writer.RejectedError)(nil); !errors.As(err, &rejected) || rejected.Total != 1 {
			m.fail("publish of a bad row: %v", err)
		}
		return true
	}
	m.must("publish", err)
	if out.RejectedRows != 1 {
		m.fail("publish of a bad row with others answered %+v", out)
	}
	m.acked(s, q, out.Ranges)
	return true
}

// Several clients at a time: each request is atomic, whatever it shares a
// commit with.
func (m *machine) opPublishTogether(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	turn := m.turn + 1
	var requests []*modelRequest
	var bodies []writer.Request
	for range 2 + r.IntN(4) {
		q := m.request(r, s, requestRows(r))
		q.turn = turn
		requests, bodies = append(requests, q), append(bodies, m.encoded(r, s, q))
	}
	outs, errs := make([]writer.Result, len(requests)), make([]error, len(requests))
	var sent sync.WaitGroup
	for i := range requests {
		sent.Go(func() { outs[i], errs[i] = m.send(s, bodies[i]) })
	}
	sent.Wait()
	var ranges []hotbuffer.PartRange
	for i, q := range requests {
		m.must("publish", errs[i])
		m.must("acknowledgement", s.view.ack(q, outs[i].Ranges))
		ranges = append(ranges, outs[i].Ranges...)
		m.rows += int64(len(q.rows))
	}
	s.view.grow(ranges)
	return true
}

// producer returns one of a view's producers, by name perhaps a new one.
func (m *machine) producer(r *rand.Rand, s *modelStream) *modelProducer {
	name := fmt.Sprintf("producer-%d", r.IntN(3))
	p := s.view.producers[name]
	if p == nil {
		p = &modelProducer{name: name, epoch: int32(r.IntN(2)), next: r.Int64N(3) * 1000}
		s.view.producers[name] = p
	}
	return p
}

func (p *modelProducer) at(sequence int64) *writer.Producer {
	return &writer.Producer{Name: p.name, Epoch: p.epoch, Sequence: sequence}
}

// The next request of a producer; some lose their answer, or their way, and are
// sent again, perhaps to the next process.
func (m *machine) opProducer(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	p := m.producer(r, s)
	if len(p.last) > 0 && r.IntN(12) == 0 {
		p.epoch, p.next, p.last = p.epoch+1+int32(r.IntN(2)), r.Int64N(5), nil
		m.count("new producer epoch")
	}
	for range 1 + r.IntN(4)*r.IntN(8) {
		m.nextRequest(r, s, p)
	}
	return true
}

func (m *machine) nextRequest(r *rand.Rand, s *modelStream, p *modelProducer) {
	q := m.request(r, s, 1+r.IntN(6))
	body := q.body(s.view.schema)
	req := writer.Request{Format: writer.JSON, Body: body, Producer: p.at(p.next)}
	duplicate := false
	if r.IntN(8) == 0 {
		lost := r.IntN(2) == 0
		m.faults.arm(1, lost, "Buffer.Append")
		_, err := m.send(s, req)
		struck := m.faults.disarm()
		if struck == "" || !errors.Is(err, errInjected) {
			m.fail("publish whose answer gets lost: %v, struck %q", err, struck)
		}
		duplicate = lost
		switch r.IntN(3) {
		case 0:
			m.reopen(r, false)
		case 1:
			m.reopen(r, true)
		}
		m.count("retry of a lost answer")
	}
	out, err := m.send(s, req)
	m.must("publish", err)
	if out.Duplicate != duplicate || out.Rows != int64(len(q.rows)) {
		m.fail("publish of sequence %d of producer %s answered %+v; it had arrived: %v", p.next, p.name, out, duplicate)
	}
	m.acked(s, q, out.Ranges)
	p.done(out.Ranges, body)
}

// Requests of a producer that come again, or that it should not have sent.
func (m *machine) opProducerAgain(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	p := m.producer(r, s)
	if len(p.last) == 0 {
		return false
	}
	// Rows that nobody may ever see.
	body := m.request(r, s, 1+r.IntN(3)).body(s.view.schema)
	req := writer.Request{Format: writer.JSON, Body: body, Producer: p.at(p.next)}
	first := p.next - int64(len(p.last))
	var want error
	switch kind := r.IntN(6); {
	case kind < 3:
		back := r.IntN(len(p.last))
		if kind == 0 {
			back = 0
		}
		o := p.last[len(p.last)-1-back]
		req.Producer.Sequence = p.next - 1 - int64(back)
		if back == 0 && o.body != nil {
			req.Body = o.body // of a schema that may have passed
		}
		out, err := m.send(s, req)
		m.must("publish again", err)
		if !out.Duplicate || !slices.Equal(byPartition(out.Ranges), o.ranges) {
			m.fail("sequence %d of producer %s, sent again, answered %+v, want the ranges %v", req.Producer.Sequence, p.name, out, o.ranges)
		}
		m.count("retry")
		return true
	case kind == 3:
		req.Producer.Sequence += 1 + r.Int64N(3)
		want = record.ErrOutOfSequence
		m.count("gap")
	case kind == 4 && first > 0:
		req.Producer.Sequence = max(0, first-1-r.Int64N(3))
		want = record.ErrOutOfSequence
		m.count("sequence too old")
	case p.epoch > 0:
		req.Producer.Epoch--
		want = record.ErrFenced
		m.count("old producer epoch")
	default:
		return false
	}
	if out, err := m.send(s, req); !errors.Is(err, want) {
		m.fail("producer %+v, where %d of epoch %d is next: %+v, %v, want %v", req.Producer, p.next, p.epoch, out, err, want)
	}
	return true
}

func (m *machine) opProducerState(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	name := fmt.Sprintf("producer-%d", r.IntN(3))
	p := s.view.producers[name]
	got, err := m.b.Producers.Producer(m.ctx, s.name, "main", name)
	if p == nil || len(p.last) == 0 {
		// A new epoch that has sent nothing is not known yet.
		if p == nil && !errors.Is(err, record.ErrNotFound) {
			m.fail("a producer that never was: %+v, %v", got, err)
		}
		return true
	}
	m.must("producer", err)
	if got.Epoch != p.epoch || got.Sequence != p.next-1 || !slices.Equal(byPartition(got.Ranges), p.last[len(p.last)-1].ranges) {
		m.fail("producer %s is %+v, want epoch %d, sequence %d, %v", name, got, p.epoch, p.next-1, p.last[len(p.last)-1].ranges)
	}
	return true
}

func (m *machine) opIdempotencyKey(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	v := s.view
	if len(v.once) > 0 && r.IntN(2) == 0 {
		o := v.once[r.IntN(len(v.once))]
		body := m.request(r, s, 2).body(v.schema)
		out, err := m.send(s, writer.Request{Format: writer.JSON, Body: body, IdempotencyKey: o.key})
		m.must("publish again", err)
		if !out.Duplicate || !slices.Equal(byPartition(out.Ranges), o.ranges) {
			m.fail("idempotency key %s, sent again, answered %+v, want %v", o.key, out, o.ranges)
		}
		m.count("retry by key")
		return true
	}
	m.keys++
	key := fmt.Sprintf("key-%d", m.keys)
	q := m.request(r, s, 1+r.IntN(5))
	out, err := m.send(s, writer.Request{Format: writer.JSON, Body: q.body(v.schema), IdempotencyKey: key})
	m.must("publish", err)
	if out.Duplicate {
		m.fail("a new idempotency key answered %+v", out)
	}
	m.acked(s, q, out.Ranges)
	v.once = append(v.once, modelOnce{key, byPartition(out.Ranges)})
	return true
}

// A publish without a producer whose answer is lost: nobody knows.
func (m *machine) opPublishLost(r *rand.Rand) bool {
	s := m.pick(r)
	if s == nil {
		return false
	}
	q := m.request(r, s, requestRows(r))
	req := m.encoded(r, s, q)
	m.faults.arm(1, r.IntN(2) == 0, "Buffer.Append")
	_, err := m.send(s, req)
	m.faults.disarm()
	if !errors.Is(err, errInjected) {
		m.fail("publish whose answer gets lost: %v", err)
	}
	s.view.doubt = append(s.view.doubt, q)
	m.settle(s)
	return true
}

// A loss of power while clients publish: what was answered is there, the rest
// as a whole or not at all.
func (m *machine) opCrashUnderLoad(r *rand.Rand) bool {
	type sent struct {
		s      *modelStream
		q      *modelRequest
		req    writer.Request
		ranges []hotbuffer.PartRange
		acked  bool
	}
	names := m.names3()
	if len(names) == 0 {
		return false
	}
	turn := m.turn + 1
	var all []*sent
	for range 3 + r.IntN(12) {
		s := m.streams[names[r.IntN(len(names))]]
		q := m.request(r, s, requestRows(r))
		q.turn = turn
		all = append(all, &sent{s: s, q: q, req: writer.Request{Format: writer.JSON, Body: q.body(s.view.schema)}})
	}
	var answers atomic.Int64
	var publishing sync.WaitGroup
	ctx, cancel := context.WithCancel(m.ctx)
	for _, p := range all {
		p.req.Stream, p.req.Branch = p.s.name, "main"
		w := m.node.writer
		publishing.Go(func() {
			out, err := w.Publish(ctx, p.req)
			p.ranges, p.acked = out.Ranges, err == nil && !m.crashed.Load()
			answers.Add(1)
		})
	}
	enough := int64(r.IntN(len(all)))
	for begin := time.Now(); answers.Load() < enough && time.Since(begin) < time.Second; {
		time.Sleep(50 * time.Microsecond)
	}
	m.crash(r, []int{0, 0, 50, 100}[r.IntN(4)])
	cancel()
	publishing.Wait()
	grown := map[*modelStream][]hotbuffer.PartRange{}
	for _, p := range all {
		if p.acked {
			m.must("acknowledgement", p.s.view.ack(p.q, p.ranges))
			grown[p.s] = append(grown[p.s], p.ranges...)
			m.rows += int64(len(p.q.rows))
		} else {
			p.s.view.doubt = append(p.s.view.doubt, p.q)
		}
	}
	for s, ranges := range grown {
		s.view.grow(ranges)
	}
	m.open()
	m.resumeTails()
	for _, name := range names {
		m.settle(m.streams[name])
	}
	return true
}

// reopen ends the node, cleanly or not, and begins again.
func (m *machine) reopen(r *rand.Rand, crash bool) {
	if crash {
		m.crash(r, []int{0, 0, 50, 100}[r.IntN(4)])
	} else {
		m.close(r.IntN(3) == 0)
	}
	m.open()
	m.resumeTails()
}

func (m *machine) opRestart(r *rand.Rand) bool { m.reopen(r, false); return true }

func (m *machine) opCrash(r *rand.Rand) bool { m.reopen(r, true); return true }

func (m *machine) opClock(r *rand.Rand) bool {
	m.pass([]time.Duration{time.Second, 20 * time.Second, 90 * time.Second}[r.IntN(3)])
	return true
}

// pass lets time go by.
func (m *machine) pass(d time.Duration) { m.clock.Add(int64(d)) }
