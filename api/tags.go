package api

import (
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/catalog"
)

// CreateTag names a snapshot of a branch.
func (a *API) CreateTag(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	var in rest.CreateTag
	err := a.readJSON(c, &in, false)
	if err == nil {
		err = catalog.ValidateTagName(in.Name)
	}
	var snapshot int64
	if err == nil && in.Snapshot != nil {
		snapshot, err = parseSnapshot(*in.Snapshot)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	t, err := a.b.Tags.CreateTag(c.Request.Context(), name, branch, in.Name, snapshot)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusCreated, toTag(t))
}

// ListTags lists the tags of a branch.
func (a *API) ListTags(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	tags, err := a.b.Tags.ListTags(c.Request.Context(), name, branch)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.TagList{Tags: make([]rest.Tag, len(tags))}
	for i, t := range tags {
		out.Tags[i] = toTag(t)
	}
	writeJSON(c, http.StatusOK, out)
}

// GetTag shows a tag.
func (a *API) GetTag(c *gin.Context, stream, branch, tag string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	t, err := a.b.Tags.Tag(c.Request.Context(), name, branch, tag)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, toTag(t))
}

// DeleteTag deletes a tag.
func (a *API) DeleteTag(c *gin.Context, stream, branch, tag string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	if err := a.b.Tags.DeleteTag(c.Request.Context(), name, branch, tag); err != nil {
		a.fail(c, err)
		return
	}
	c.Status(http.StatusNoContent)
}

func toTag(t Tag) rest.Tag {
	return rest.Tag{Name: t.Name, Snapshot: strconv.FormatInt(t.Snapshot, 10), SequenceNumber: t.Sequence, CommittedAt: t.Committed}
}
