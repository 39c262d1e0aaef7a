package api

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
)

// ref is the branch of a path; on false it has answered.
func (a *API) ref(c *gin.Context, stream, branch string) (subscriber.Ref, bool) {
	name, ok := a.target(c, stream, branch)
	return subscriber.Ref{Stream: name, Branch: branch}, ok
}

// CreateSubscriber makes a subscriber.
func (a *API) CreateSubscriber(c *gin.Context, stream, branch string) {
	ref, ok := a.ref(c, stream, branch)
	if !ok {
		return
	}
	var in rest.CreateSubscriber
	spec := subscriber.Spec{}
	err := a.readJSON(c, &in, false)
	if err == nil {
		spec, err = subscriberSpec(in)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	info, err := a.b.Subscribers.Create(c.Request.Context(), ref, spec)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Location", "/v1/streams/"+url.PathEscape(ref.Stream)+"/branches/"+url.PathEscape(branch)+"/subscribers/"+url.PathEscape(info.Name))
	writeJSON(c, http.StatusCreated, toSubscriber(info))
}

func subscriberSpec(in rest.CreateSubscriber) (subscriber.Spec, error) {
	spec := subscriber.Spec{Name: in.ID}
	if in.Consistency != nil {
		if !in.Consistency.Valid() {
			return spec, invalid("consistency %.40q: want AT_LEAST_ONCE or EXACTLY_ONCE", *in.Consistency)
		}
		spec.Consistency = reader.Consistency(*in.Consistency)
	}
	if in.Hold != nil {
		d, err := time.ParseDuration(*in.Hold)
		if err != nil || d <= 0 { // 0 would mean the default
			return spec, invalid("hold %.40q: want a duration like 30s or 5m, up to %s", *in.Hold, duration(subscriber.MaxHold))
		}
		spec.Hold = d
	}
	var err error
	if in.Start != nil {
		spec.Start, err = subscriberStart(*in.Start)
	}
	return spec, err
}

func subscriberStart(in rest.SubscriberStart) (subscriber.Start, error) {
	var out subscriber.Start
	if (in.Cursor != nil) != (in.Type == rest.SubscriberStartTypeCursor) || (in.Time != nil) != (in.Type == rest.SubscriberStartTypeTime) {
		return out, invalid("start of type %.40q: send cursor with the type cursor and only with it, and time with the type time", in.Type)
	}
	switch in.Type {
	case rest.SubscriberStartTypeEarliest:
	case rest.SubscriberStartTypeLatest:
		out.Latest = true
	case rest.SubscriberStartTypeCursor:
		cursor, err := reader.ParseCursor(*in.Cursor)
		if err != nil {
			return out, err
		}
		out.Cursor = &cursor
	case rest.SubscriberStartTypeTime:
		out.Time = in.Time
	default:
		return out, invalid("start of type %.40q: want earliest, latest, cursor or time", in.Type)
	}
	return out, nil
}

// ListSubscribers lists the subscribers of a branch.
func (a *API) ListSubscribers(c *gin.Context, stream, branch string, params rest.ListSubscribersParams) {
	ref, ok := a.ref(c, stream, branch)
	if !ok {
		return
	}
	p, err := page(params.Limit, params.PageToken)
	if err != nil {
		a.fail(c, err)
		return
	}
	list, next, err := a.b.Subscribers.List(c.Request.Context(), ref, p)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.SubscriberList{Subscribers: make([]rest.Subscriber, len(list)), NextPageToken: optional(next)}
	for i, info := range list {
		out.Subscribers[i] = toSubscriber(info)
	}
	writeJSON(c, http.StatusOK, out)
}

// GetSubscriber shows a subscriber.
func (a *API) GetSubscriber(c *gin.Context, stream, branch, name string) {
	ref, ok := a.ref(c, stream, branch)
	if !ok {
		return
	}
	info, err := a.b.Subscribers.Get(c.Request.Context(), ref, name)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, toSubscriber(info))
}

// DeleteSubscriber deletes a subscriber.
func (a *API) DeleteSubscriber(c *gin.Context, stream, branch, name string) {
	ref, ok := a.ref(c, stream, branch)
	if !ok {
		return
	}
	if err := a.b.Subscribers.Delete(c.Request.Context(), ref, name); err != nil {
		a.fail(c, err)
		return
	}
	c.Status(http.StatusNoContent)
	c.Writer.WriteHeaderNow()
}

// ResetSubscriber moves a subscriber.
func (a *API) ResetSubscriber(c *gin.Context, stream, branch, name string) {
	ref, ok := a.ref(c, stream, branch)
	if !ok {
		return
	}
	var in rest.ResetSubscriber
	var start subscriber.Start
	err := a.readJSON(c, &in, false)
	if err == nil {
		start, err = subscriberStart(in.Start)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	info, err := a.b.Subscribers.Reset(c.Request.Context(), ref, name, start)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, toSubscriber(info))
}

// CommitSubscriber commits how far a member is.
func (a *API) CommitSubscriber(c *gin.Context, stream, branch, name string) {
	ref, ok := a.ref(c, stream, branch)
	if !ok {
		return
	}
	var in rest.CommitSubscriber
	var commit subscriber.Commit
	err := a.readJSON(c, &in, false)
	if err == nil {
		commit, err = subscriberCommit(in)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	position, err := a.b.Subscribers.Commit(c.Request.Context(), ref, name, commit)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, rest.SubscriberPosition{Cursor: position.String(), Checkpoint: position.Checkpoint})
}

func subscriberCommit(in rest.CommitSubscriber) (subscriber.Commit, error) {
	out := subscriber.Commit{Session: in.Session}
	switch {
	case in.Session < 1:
		return out, invalid("commit: session %d: want the number of the assignment mark", in.Session)
	case (in.Cursor == nil) == (in.Checkpoint == nil):
		return out, invalid("commit: send either cursor or checkpoint")
	case in.Checkpoint != nil:
		if out.Epoch = *in.Checkpoint; out.Epoch < 1 {
			return out, invalid("commit: checkpoint %d: want the number of a checkpoint mark", out.Epoch)
		}
		return out, nil
	}
	cursor, err := reader.ParseCursor(*in.Cursor)
	out.Cursor = &cursor
	return out, err
}

func toSubscriber(i subscriber.Info) rest.Subscriber {
	out := rest.Subscriber{
		ID: i.Name, Consistency: rest.Consistency(i.Consistency), View: int32(i.View), CurrentView: i.CurrentView,
		Cursor: i.Position.String(), Checkpoint: i.Position.Checkpoint, Offsets: offsetMap(i.Position.Next),
		LagRows: i.Lag.Rows, LagSeconds: i.Lag.Age.Seconds(), Session: i.Session, Generation: i.Generation,
		Hold: duration(i.Hold), CreatedAt: i.Created, Members: make([]rest.SubscriberMember, len(i.Members)),
	}
	if !i.Committed.IsZero() {
		out.CommittedAt = &i.Committed
	}
	for n, m := range i.Members {
		out.Members[n] = rest.SubscriberMember{
			Member: m.Name, Session: m.Session, Partitions: partitions(m.Partitions), JoinedAt: m.Joined, Delivered: offsetMap(m.Delivered),
		}
	}
	return out
}

func offsetMap(in record.Offsets) map[string]int64 {
	out := make(map[string]int64, len(in))
	for p, o := range in {
		out[strconv.Itoa(p)] = int64(o)
	}
	return out
}

func partitions(in []record.Partition) []int32 {
	out := make([]int32, len(in))
	for i, p := range in {
		out[i] = int32(p)
	}
	return out
}
