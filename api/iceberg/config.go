package iceberg

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/catalog"
)

// config tells a client what is served, and which prefix its paths get: the name of
// its warehouse is the branch.
func (h *handlers) config(c *gin.Context) {
	branch, err := branchOf(c)
	if w := c.Query("warehouse"); w != "" && c.GetHeader(branchHeader) == "" {
		branch, err = w, catalog.ValidateName("warehouse, which is the name of a branch (main by default),", w)
	}
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	_, storage, err := h.catalog.StorageConfig(c.Request.Context(), false)
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	endpoints := []string{}
	for _, r := range h.routes() {
		endpoints = append(endpoints, r.method+" /v1/{prefix}"+r.path)
	}
	if storage == nil {
		storage = map[string]string{}
	}
	h.write(c, http.StatusOK, map[string]any{
		"defaults":  storage,
		"overrides": map[string]string{"prefix": branch},
		"endpoints": endpoints,
		// How long a request with an Idempotency-Key may be sent again.
		"idempotency-key-lifetime": "PT24H",
	})
}
