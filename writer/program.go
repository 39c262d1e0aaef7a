package writer

import (
	"fmt"
	"sync/atomic"

	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// program is everything that can be prepared for publishing to one version of a
// branch. Shared by concurrent requests.
type program struct {
	Target
	strict, lenient *schema.JSONToAvro // unknown fields rejected, ignored
	key             *schema.Key        // nil without key fields
	turn            atomic.Uint32      // of requests without keys
	foreign         foreigns
}

// nextPartition takes turns, request by request. The turn is the branch's own:
// with one for all, two streams that are written to in turn would each fill every
// second partition only.
func (p *program) nextPartition() record.Partition {
	return record.Partition((p.turn.Add(1) - 1) % uint32(p.Partitions))
}

// maxPrograms bounds the cache; beyond it an arbitrary one is dropped and
// compiled again when it is next needed.
const maxPrograms = 4096

func (w *Writer) program(t Target) (*program, error) {
	w.mu.Lock()
	p := w.programs[t.View]
	w.mu.Unlock()
	if p != nil && p.Version == t.Version {
		return p, nil
	}
	p, err := compile(t)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.programs[t.View]; !known && len(w.programs) >= maxPrograms {
		for v := range w.programs {
			delete(w.programs, v)
			break
		}
	}
	w.programs[t.View] = p
	return p, nil
}

func compile(t Target) (*program, error) {
	if t.Partitions < 1 || t.Partitions > record.MaxPartitions {
		return nil, fmt.Errorf("view %s has %d partitions: %w", t.View, t.Partitions, record.ErrInvalid)
	}
	p := &program{Target: t}
	var err error
	if p.strict, err = schema.CompileJSONToAvro(t.Schema, schema.JSONOptions{}); err != nil {
		return nil, err
	}
	if p.lenient, err = schema.CompileJSONToAvro(t.Schema, schema.JSONOptions{UnknownFields: schema.Ignore}); err != nil {
		return nil, err
	}
	if len(t.KeyFields) > 0 {
		if p.key, err = schema.CompileKey(t.Schema, t.KeyFields); err != nil {
			return nil, err
		}
	}
	return p, nil
}
