package node

import (
	"context"
	"fmt"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/subscriber"
)

// places finds branches for the coordinator of subscribers.
type places struct{ d *branch.Directory }

func (p places) Branch(ref subscriber.Ref) (subscriber.Branch, error) {
	st, err := p.d.Resolve(ref.Stream, ref.Branch)
	if err != nil {
		return subscriber.Branch{}, err
	}
	return subscriber.Branch{ID: st.Branch.ID, Consistency: st.Branch.Settings.Consistency, Target: readTarget(st)}, nil
}

// subscribers is the coordinator as the REST interface calls it.
type subscribers struct {
	*subscriber.Coordinator
	d *branch.Directory
}

// List has names for page tokens.
func (s subscribers) List(ctx context.Context, ref subscriber.Ref, p api.Page) ([]subscriber.Info, string, error) {
	return s.Coordinator.List(ctx, ref, p.Token, p.Size)
}

// Join refuses a branch that has lost rows, as every read of it does.
func (s subscribers) Join(ctx context.Context, ref subscriber.Ref, name string, j subscriber.Join) (api.SubscriberSession, error) {
	st, err := s.d.Resolve(ref.Stream, ref.Branch)
	if err != nil {
		return nil, err
	}
	if st.Lost != nil {
		return nil, fmt.Errorf("join subscriber %q of %s: %w", name, ref, st.Lost)
	}
	session, err := s.Coordinator.Join(ctx, ref, name, j)
	if err != nil {
		return nil, err // not a nil *subscriber.Session in an interface
	}
	return session, nil
}
