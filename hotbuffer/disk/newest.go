package disk

import (
	"context"
	"fmt"
	"slices"

	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/record"
)

// Newest implements hotbuffer.Buffer. It asks the committer, which owns what is
// remembered, so it waits for the commit under way: what it returns is durable.
func (l *Log) Newest(ctx context.Context, id record.ViewID, p hotbuffer.ProducerID) (hotbuffer.Producer, []hotbuffer.PartRange, error) {
	if _, err := l.opened(id); err != nil {
		return hotbuffer.Producer{}, nil, fmt.Errorf("newest request: %w", err)
	}
	// Read only after the committer has answered: when ctx ends first it may
	// still be writing them.
	var newest hotbuffer.Producer
	var ranges []hotbuffer.PartRange
	err := l.between(ctx, func() error {
		if err := l.poison(); err != nil {
			return err // the newest one may be of the commit that failed
		}
		e := l.producers.byKey[producerKey{view: id, id: p}]
		if e == nil {
			return fmt.Errorf("no such producer is remembered: %w", record.ErrNotFound)
		}
		known := e.Value.(*producer)
		last := known.outcomes[len(known.outcomes)-1]
		newest = hotbuffer.Producer{ID: p, Epoch: known.epoch, Sequence: last.sequence}
		ranges = slices.Clone(last.ranges)
		return nil
	})
	if err != nil {
		return hotbuffer.Producer{}, nil, fmt.Errorf("newest request of %v: %w", id, err)
	}
	return newest, ranges, nil
}
