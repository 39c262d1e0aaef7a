package api

import (
	"encoding/json"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/schema"
)

// GetSchema shows the current schema.
func (a *API) GetSchema(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	v, err := a.b.Schemas.Schema(c.Request.Context(), name, branch)
	a.writeSchema(c, v, err)
}

// EvolveSchema makes another schema the current one.
func (a *API) EvolveSchema(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	var in json.RawMessage
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	s, err := schema.ParseAny(in)
	if err != nil {
		a.fail(c, err)
		return
	}
	v, err := a.b.Schemas.Evolve(c.Request.Context(), name, branch, s)
	a.writeSchema(c, v, err)
}

func (a *API) writeSchema(c *gin.Context, v SchemaVersion, err error) {
	var out rest.SchemaVersion
	if err == nil {
		out, err = toSchemaVersion(v)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, out)
}

// ListSchemaVersions lists the schema's history.
func (a *API) ListSchemaVersions(c *gin.Context, stream, branch string, params rest.ListSchemaVersionsParams) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	p, err := page(params.Limit, params.PageToken)
	if err != nil {
		a.fail(c, err)
		return
	}
	versions, next, err := a.b.Schemas.SchemaVersions(c.Request.Context(), name, branch, p)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.SchemaVersionList{Versions: make([]rest.SchemaVersion, len(versions)), NextPageToken: optional(next)}
	for i, v := range versions {
		if out.Versions[i], err = toSchemaVersion(v); err != nil {
			a.fail(c, err)
			return
		}
	}
	writeJSON(c, http.StatusOK, out)
}
