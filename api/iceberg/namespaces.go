package iceberg

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/record"
)

// pageOf reads pageToken and pageSize. A client that sends no token gets all there
// is in one answer, as the contract has it.
func pageOf(c *gin.Context) (Page, error) {
	p := Page{Token: c.Query("pageToken")}
	if s := c.Query("pageSize"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return p, fmt.Errorf("pageSize %.20q; it is a number from 1 on: %w", s, record.ErrInvalid)
		}
		p.Size = min(n, maxPage)
	}
	if _, paged := c.GetQuery("pageToken"); paged && p.Size == 0 {
		p.Size = maxPage
	}
	return p, nil
}

const maxPage = 1000

func (h *handlers) listNamespaces(c *gin.Context) {
	p, err := pageOf(c)
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	if parent := c.Query("parent"); parent != "" {
		// Namespaces have one level, and so none below, if there is the one.
		about(c, strings.ReplaceAll(parent, separator, "."))
		name, err := checkNamespace(strings.Split(parent, separator))
		if err == nil {
			_, err = h.catalog.Namespace(c.Request.Context(), name)
		}
		if err != nil {
			h.fail(c, aboutNamespace, err)
			return
		}
		h.write(c, http.StatusOK, map[string]any{"namespaces": [][]string{}})
		return
	}
	names, next, err := h.catalog.Namespaces(c.Request.Context(), p)
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	list := make([][]string, len(names))
	for i, n := range names {
		list[i] = []string{n}
	}
	h.write(c, http.StatusOK, paged(map[string]any{"namespaces": list}, next))
}

func paged(v map[string]any, next string) map[string]any {
	if next != "" {
		v["next-page-token"] = next
	}
	return v
}

func (h *handlers) getNamespace(c *gin.Context) {
	name, err := namespaceOf(c)
	var properties map[string]string
	if err == nil {
		properties, err = h.catalog.Namespace(c.Request.Context(), name)
	}
	switch {
	case err != nil:
		h.fail(c, aboutNamespace, err)
	case c.Request.Method == http.MethodHead:
		h.writeBytes(c, http.StatusNoContent, nil)
	default:
		h.writeNamespace(c, name, properties)
	}
}

func (h *handlers) writeNamespace(c *gin.Context, name string, properties map[string]string) {
	if properties == nil {
		properties = map[string]string{}
	}
	h.write(c, http.StatusOK, map[string]any{"namespace": []string{name}, "properties": properties})
}

func (h *handlers) createNamespace(c *gin.Context) {
	var q struct {
		Namespace  []string          `json:"namespace"`
		Properties map[string]string `json:"properties"`
	}
	err := h.read(c, &q)
	if err == nil && len(q.Namespace) > 1 {
		err = fmt.Errorf("create namespace %q: namespaces have one level: %w", q.Namespace, record.ErrInvalid)
	}
	var name string
	if err == nil {
		about(c, strings.Join(q.Namespace, "."))
		name, err = checkNamespace(q.Namespace)
	}
	if err == nil {
		err = h.catalog.CreateNamespace(c.Request.Context(), name, q.Properties)
	}
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	h.writeNamespace(c, name, q.Properties)
}

func (h *handlers) dropNamespace(c *gin.Context) {
	name, err := namespaceOf(c)
	if err == nil {
		err = h.catalog.DropNamespace(c.Request.Context(), name)
	}
	if errors.Is(err, record.ErrNotFound) && again(c) {
		err = nil // by this request
	}
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	h.writeBytes(c, http.StatusNoContent, nil)
}

func (h *handlers) setNamespace(c *gin.Context) {
	var q struct {
		Removals []string          `json:"removals"`
		Updates  map[string]string `json:"updates"`
	}
	name, err := namespaceOf(c)
	if err == nil {
		err = h.read(c, &q)
	}
	if err == nil {
		for _, key := range q.Removals {
			if _, both := q.Updates[key]; both {
				err = &httpError{fmt.Sprintf("the property %.80q is to be removed and set at once", key), "UnprocessableEntityException", http.StatusUnprocessableEntity}
			}
		}
	}
	var missing []string
	if err == nil {
		missing, err = h.catalog.SetNamespace(c.Request.Context(), name, q.Removals, q.Updates)
	}
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	removed := []string{}
	for _, key := range q.Removals {
		if !slices.Contains(missing, key) {
			removed = append(removed, key)
		}
	}
	updated := slices.Sorted(maps.Keys(q.Updates))
	if updated == nil {
		updated = []string{}
	}
	if missing == nil {
		missing = []string{}
	}
	h.write(c, http.StatusOK, map[string]any{"removed": removed, "updated": updated, "missing": missing})
}
