package iceberg

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/record"
)

// commitRequest is the body of a commit to one table.
type commitRequest struct {
	Identifier   *identifier     `json:"identifier"`
	Requirements json.RawMessage `json:"requirements"`
	Updates      json.RawMessage `json:"updates"`
}

func (h *handlers) commitTable(c *gin.Context) {
	r, err := tableOf(c)
	var q commitRequest
	if err == nil {
		err = h.read(c, &q)
	}
	if err == nil && q.Identifier != nil {
		var named Ref
		if named, err = q.Identifier.ref(c); err == nil && named != r {
			err = fmt.Errorf("the commit is for %s, and its path names %s: %w", named, r, record.ErrInvalid)
		}
	}
	var u *dataset.Updates
	if err == nil {
		u, err = dataset.ParseUpdates(q.Requirements, q.Updates)
	}
	var t Table
	if err == nil {
		c.Set(tableKey, r)
		if u.Creates() {
			t, err = h.catalog.CreateStaged(c.Request.Context(), r, u)
		} else {
			t, err = h.catalog.Commit(c.Request.Context(), r, u)
		}
	}
	if err != nil {
		h.fail(c, aboutCommit, err)
		return
	}
	h.writeTable(c, t, false)
}

// maxChanges bounds the tables of one transaction.
const maxChanges = 100

func (h *handlers) commitTransaction(c *gin.Context) {
	var q struct {
		Changes []commitRequest `json:"table-changes"`
	}
	err := h.read(c, &q)
	if err == nil && (len(q.Changes) == 0 || len(q.Changes) > maxChanges) {
		err = fmt.Errorf("a transaction has 1 to %d table-changes, not %d: %w", maxChanges, len(q.Changes), record.ErrInvalid)
	}
	var changes []Change
	for i, one := range q.Changes {
		if err != nil {
			break
		}
		var change Change
		if one.Identifier == nil {
			err = fmt.Errorf("table-change number %d names no table: %w", i+1, record.ErrInvalid)
			break
		}
		if change.Ref, err = one.Identifier.ref(c); err != nil {
			break
		}
		if change.Updates, err = dataset.ParseUpdates(one.Requirements, one.Updates); err == nil {
			changes = append(changes, change)
		}
	}
	if err == nil {
		err = h.catalog.CommitAll(c.Request.Context(), changes)
	}
	if err != nil {
		h.fail(c, aboutCommit, err)
		return
	}
	h.writeBytes(c, http.StatusNoContent, nil)
}
