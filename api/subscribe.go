package api

import (
	"context"
	"iter"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/schema"
	"github.com/thermocline/thermocline/subscriber"
)

// SubscribeRows answers a push read of a subscriber. The membership is as long
// as the answer.
func (a *API) SubscribeRows(c *gin.Context, stream, branch, name string, params rest.SubscribeRowsParams) {
	ref, ok := a.ref(c, stream, branch)
	if !ok {
		return
	}
	format, join, asText, err := joinRequest(c, params)
	if err != nil {
		a.fail(c, err)
		return
	}
	if err := a.subscribes.enter("join subscriber "+name+" of", ref.Stream); err != nil {
		a.fail(c, err)
		return
	}
	defer a.subscribes.leave(ref.Stream)
	var session SubscriberSession
	defer func() {
		if session != nil {
			session.Close()
		}
	}()
	a.push(c, format, asText, func(ctx context.Context) (*schema.Schema, iter.Seq2[pushed, error], error) {
		var err error
		if session, err = a.b.Subscribers.Join(ctx, ref, name, join); err != nil {
			return nil, nil, err
		}
		return session.Schema(), subscribed(session.Events()), nil
	})
}

func joinRequest(c *gin.Context, params rest.SubscribeRowsParams) (format string, j subscriber.Join, asText bool, err error) {
	var asked string
	if params.Format != nil {
		asked = string(*params.Format)
	}
	if format, err = negotiate(c, asked, formatNDJSON, formatSSE, formatArrow); err != nil {
		return "", j, false, err
	}
	if j.Request, asText, err = scanRequest(params.Columns, params.Where, nil, params.System, (*string)(params.Numbers)); err != nil {
		return "", j, false, err
	}
	if params.Member != nil {
		if j.Member = *params.Member; j.Member == "" {
			return "", j, false, invalid("member: the name is empty; give one, or leave the parameter out")
		}
	}
	if params.Resume != nil {
		cursor, err := reader.ParseCursor(*params.Resume)
		if err != nil {
			return "", j, false, err
		}
		j.Resume = &cursor
	}
	return format, j, asText, nil
}

// subscribed are the pieces of a session.
func subscribed(events iter.Seq2[subscriber.Event, error]) iter.Seq2[pushed, error] {
	return func(yield func(pushed, error) bool) {
		for e, err := range events {
			var p pushed
			switch {
			case err != nil:
			case e.Assignment != nil:
				p.mark = assignment(*e.Assignment)
			default:
				p = pushed{e.Batch.Rows, markOf(e.Batch)}
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

func assignment(as subscriber.Assignment) *mark {
	ps := partitions(as.Partitions)
	return &mark{Kind: markAssignment, Session: as.Session, Member: as.Member, Partitions: &ps, Cursor: as.Position.String()}
}
