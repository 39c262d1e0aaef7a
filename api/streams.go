package api

import (
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/schema"
)

// CreateStream makes a stream.
func (a *API) CreateStream(c *gin.Context) {
	var in rest.CreateStream
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	create, err := createStream(in)
	if err != nil {
		a.fail(c, err)
		return
	}
	s, err := a.b.Streams.CreateStream(c.Request.Context(), create)
	if err != nil {
		a.fail(c, err)
		return
	}
	out, err := toStream(s)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Location", "/v1/streams/"+url.PathEscape(s.Name))
	writeJSON(c, http.StatusCreated, out)
}

func createStream(in rest.CreateStream) (CreateStream, error) {
	var out CreateStream
	var err error
	if out.Name, err = fullName(in.Name); err != nil {
		return out, err
	}
	if out.Settings, err = fromSettings(in.Settings); err != nil {
		return out, err
	}
	switch {
	case (in.Schema == nil) == (in.Sample == nil):
		return out, invalid("create stream %s: send either schema or sample", out.Name)
	case in.Schema != nil:
		out.Schema, err = schema.ParseAny(*in.Schema)
	default:
		rows := make([][]byte, len(*in.Sample))
		for i, r := range *in.Sample {
			rows[i] = r
		}
		out.Schema, err = schema.Infer(rows...)
	}
	return out, err
}

// ListStreams lists streams.
func (a *API) ListStreams(c *gin.Context, params rest.ListStreamsParams) {
	p, err := page(params.Limit, params.PageToken)
	if err != nil {
		a.fail(c, err)
		return
	}
	streams, next, err := a.b.Streams.ListStreams(c.Request.Context(), p)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.StreamList{Streams: make([]rest.StreamSummary, len(streams)), NextPageToken: optional(next)}
	for i, s := range streams {
		out.Streams[i] = rest.StreamSummary{Name: s.Name, CreatedAt: s.CreatedAt}
	}
	writeJSON(c, http.StatusOK, out)
}

// GetStream shows a stream.
func (a *API) GetStream(c *gin.Context, stream string) {
	name, err := fullName(stream)
	if err != nil {
		a.fail(c, err)
		return
	}
	s, err := a.b.Streams.Stream(c.Request.Context(), name)
	if err != nil {
		a.fail(c, err)
		return
	}
	out, err := toStream(s)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, out)
}

// DeleteStream deletes a stream.
func (a *API) DeleteStream(c *gin.Context, stream string) {
	name, err := fullName(stream)
	if err == nil {
		err = a.b.Streams.DeleteStream(c.Request.Context(), name)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Status(http.StatusNoContent)
}

// GetSettings shows the settings of a branch.
func (a *API) GetSettings(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	s, err := a.b.Streams.Settings(c.Request.Context(), name, branch)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, toSettings(s))
}

// UpdateSettings changes some settings of a branch.
func (a *API) UpdateSettings(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	var in rest.SettingsPatch
	err := a.readJSON(c, &in, false)
	if err != nil {
		a.fail(c, err)
		return
	}
	patch, err := fromSettings(&in)
	if err != nil {
		a.fail(c, err)
		return
	}
	s, err := a.b.Streams.UpdateSettings(c.Request.Context(), name, branch, patch)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, toSettings(s))
}

// ResetBranch begins a new view.
func (a *API) ResetBranch(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	var in rest.ResetBranch
	if err := a.readJSON(c, &in, true); err != nil {
		a.fail(c, err)
		return
	}
	patch, err := fromSettings(in.Settings)
	if err != nil {
		a.fail(c, err)
		return
	}
	var s *schema.Schema
	if in.Schema != nil {
		if s, err = schema.ParseAny(*in.Schema); err != nil {
			a.fail(c, err)
			return
		}
	}
	b, err := a.b.Streams.Reset(c.Request.Context(), name, branch, s, patch)
	if err != nil {
		a.fail(c, err)
		return
	}
	out, err := toBranch(b)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, out)
}
