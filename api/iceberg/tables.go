package iceberg

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
)

// freshHeader asks, with 1 or true, for all rows acknowledged before the request.
const freshHeader = "X-Thermocline-Fresh"

// fallbackHeader names branches, separated by commas, to look for a table that the
// request's branch does not have. Only loads fall back: a commit goes where it says.
const fallbackHeader = "X-Thermocline-Fallback"

// delegationHeader lists how a client would like to reach the files.
const delegationHeader = "X-Iceberg-Access-Delegation"

func (h *handlers) listTables(c *gin.Context) {
	namespace, err := namespaceOf(c)
	var branch string
	if err == nil {
		branch, err = branchOf(c)
	}
	var p Page
	if err == nil {
		p, err = pageOf(c)
	}
	var names []string
	var next string
	if err == nil {
		names, next, err = h.catalog.Tables(c.Request.Context(), namespace, branch, p)
	}
	if err != nil {
		h.fail(c, aboutNamespace, err)
		return
	}
	list := make([]identifier, len(names))
	for i, n := range names {
		list[i] = identifier{[]string{namespace}, n}
	}
	h.write(c, http.StatusOK, paged(map[string]any{"identifiers": list}, next))
}

// load loads a table; where its branch lacks it, and the client asks for that, from
// the first of other branches that has it.
func (h *handlers) load(c *gin.Context, r Ref, fresh bool) (Table, error) {
	t, err := h.catalog.Table(c.Request.Context(), r, fresh)
	for _, branch := range strings.Split(c.GetHeader(fallbackHeader), ",") {
		if branch = strings.TrimSpace(branch); branch == "" || !errors.Is(err, record.ErrNotFound) {
			continue
		}
		if verr := catalog.ValidateName("branch name", branch); verr != nil {
			return Table{}, verr
		}
		r.Branch = branch
		t, err = h.catalog.Table(c.Request.Context(), r, fresh)
	}
	return t, err
}

func (h *handlers) headTable(c *gin.Context) {
	r, err := tableOf(c)
	if err == nil {
		_, err = h.load(c, r, false)
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.writeBytes(c, http.StatusNoContent, nil)
}

func (h *handlers) loadTable(c *gin.Context) {
	r, err := tableOf(c)
	mode := c.DefaultQuery("snapshots", "all")
	if err == nil && mode != "all" && mode != "refs" {
		err = fmt.Errorf("snapshots=%.20q; it is all or refs: %w", mode, record.ErrInvalid)
	}
	var t Table
	if err == nil {
		fresh := c.GetHeader(freshHeader)
		t, err = h.load(c, r, fresh == "1" || strings.EqualFold(fresh, "true"))
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.writeTable(c, t, mode == "refs")
}

// writeTable answers with a table, or says that the client has it already.
func (h *handlers) writeTable(c *gin.Context, t Table, refsOnly bool) {
	out := map[string]any{}
	if t.MetadataLocation != "" {
		tag := etag(t, refsOnly)
		c.Header("ETag", tag)
		if c.Request.Method == http.MethodGet && slices.ContainsFunc(strings.Split(c.GetHeader("If-None-Match"), ","), func(s string) bool {
			return strings.TrimPrefix(strings.TrimSpace(s), "W/") == tag
		}) {
			h.writeBytes(c, http.StatusNotModified, nil)
			return
		}
		out["metadata-location"] = t.MetadataLocation
	}
	metadata, err := encode(t, refsOnly)
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	out["metadata"] = metadata
	prefix, config, err := h.catalog.StorageConfig(c.Request.Context(), wantsCredentials(c))
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	if len(config) > 0 {
		out["config"] = config
		if config["s3.access-key-id"] != "" {
			out["storage-credentials"] = []storageCredential{{prefix, config}}
		}
	}
	h.write(c, http.StatusOK, out)
}

func wantsCredentials(c *gin.Context) bool {
	return strings.Contains(c.GetHeader(delegationHeader), "vended-credentials")
}

// etag names what a client has: the metadata file, and what is not in it.
func etag(t Table, refsOnly bool) string {
	what := fmt.Sprint(t.MetadataLocation, refsOnly, t.LastFieldID)
	for _, k := range slices.Sorted(maps.Keys(t.Properties)) {
		what += "\n" + k + "=" + t.Properties[k]
	}
	sum := sha256.Sum256([]byte(what))
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// encode is the metadata as clients are to see it.
func encode(t Table, refsOnly bool) (json.RawMessage, error) {
	b, err := json.Marshal(t.Metadata)
	if err != nil {
		return nil, err
	}
	higher := t.LastFieldID > t.Metadata.LastColumnID()
	if !refsOnly && !higher && len(t.Properties) == 0 {
		return b, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	put := func(key string, v any) error {
		var err error
		all[key], err = json.Marshal(v)
		return err
	}
	if higher {
		if err := put("last-column-id", t.LastFieldID); err != nil {
			return nil, err
		}
	}
	if len(t.Properties) > 0 {
		props := map[string]string{}
		maps.Copy(props, t.Metadata.Properties())
		maps.Copy(props, t.Properties)
		if err := put("properties", props); err != nil {
			return nil, err
		}
	}
	if refsOnly {
		named := map[int64]bool{}
		for _, ref := range t.Metadata.Refs() {
			named[ref.SnapshotID] = true
		}
		kept := []table.Snapshot{}
		for _, s := range t.Metadata.Snapshots() {
			if named[s.SnapshotID] {
				kept = append(kept, s)
			}
		}
		if err := put("snapshots", kept); err != nil {
			return nil, err
		}
	}
	return json.Marshal(all)
}

func (h *handlers) createTable(c *gin.Context) {
	var q struct {
		Name       string                        `json:"name"`
		Schema     *iceberg.Schema               `json:"schema"`
		Spec       *iceberg.UnboundPartitionSpec `json:"partition-spec"`
		Order      *table.UnboundSortOrder       `json:"write-order"`
		Stage      bool                          `json:"stage-create"`
		Properties map[string]string             `json:"properties"`
	}
	r, err := h.newTable(c, &q, &q.Name)
	if err == nil && q.Schema == nil {
		err = fmt.Errorf("create table %s: it needs a schema: %w", r, record.ErrInvalid)
	}
	var t Table
	if err == nil {
		n := NewTable{Schema: q.Schema, Properties: q.Properties, Stage: q.Stage}
		if q.Spec != nil {
			n.Spec = &q.Spec.PartitionSpec
		}
		if q.Order != nil {
			n.Order = &q.Order.SortOrder
		}
		if !q.Stage {
			c.Set(tableKey, r)
		}
		t, err = h.catalog.CreateTable(c.Request.Context(), r, n)
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.writeTable(c, t, false)
}

// newTable reads a body that names a table in the path's namespace.
func (h *handlers) newTable(c *gin.Context, q any, name *string) (Ref, error) {
	namespace, err := namespaceOf(c)
	if err != nil {
		return Ref{}, err
	}
	if err := h.read(c, q); err != nil {
		return Ref{}, err
	}
	branch, err := branchOf(c)
	if err != nil {
		return Ref{}, err
	}
	return newRef(c, namespace, *name, branch)
}

func (h *handlers) registerTable(c *gin.Context) {
	var q struct {
		Name      string `json:"name"`
		Location  string `json:"metadata-location"`
		Overwrite bool   `json:"overwrite"`
	}
	r, err := h.newTable(c, &q, &q.Name)
	if err == nil && q.Location == "" {
		err = fmt.Errorf("register table %s: it needs a metadata-location: %w", r, record.ErrInvalid)
	}
	var t Table
	if err == nil {
		c.Set(tableKey, r)
		t, err = h.catalog.RegisterTable(c.Request.Context(), r, q.Location, q.Overwrite)
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.writeTable(c, t, false)
}

// dropTable takes a table out of the catalog. Its files stay for a while, also when
// the client asks for a purge: readers may be at them.
func (h *handlers) dropTable(c *gin.Context) {
	r, err := tableOf(c)
	if err == nil {
		err = h.catalog.DropTable(c.Request.Context(), r, strings.EqualFold(c.Query("purgeRequested"), "true"))
	}
	if errors.Is(err, record.ErrNotFound) && again(c) {
		err = nil // by this request
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.writeBytes(c, http.StatusNoContent, nil)
}

func (h *handlers) renameTable(c *gin.Context) {
	var q struct {
		Source      identifier `json:"source"`
		Destination identifier `json:"destination"`
	}
	err := h.read(c, &q)
	var from, to Ref
	if err == nil {
		from, err = q.Source.ref(c)
	}
	if err == nil {
		to, err = q.Destination.ref(c)
	}
	if err == nil {
		err = h.catalog.RenameTable(c.Request.Context(), from, to)
		if errors.Is(err, record.ErrNotFound) {
			about(c, from.Namespace+"."+from.Name)
		}
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.writeBytes(c, http.StatusNoContent, nil)
}

// metrics takes a client's report of a scan or commit; the access log has it.
func (h *handlers) metrics(c *gin.Context) {
	var report struct {
		Type string `json:"report-type"`
	}
	_, err := tableOf(c)
	if err == nil {
		err = h.read(c, &report)
	}
	if err == nil && report.Type == "" {
		err = fmt.Errorf("a metrics report needs a report-type: %w", record.ErrInvalid)
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.writeBytes(c, http.StatusNoContent, nil)
}

type storageCredential struct {
	Prefix string            `json:"prefix"`
	Config map[string]string `json:"config"`
}

func (h *handlers) credentials(c *gin.Context) {
	r, err := tableOf(c)
	if err == nil {
		_, err = h.catalog.Table(c.Request.Context(), r, false)
	}
	list := []storageCredential{}
	if err == nil {
		var prefix string
		var config map[string]string
		prefix, config, err = h.catalog.StorageConfig(c.Request.Context(), true)
		if config["s3.access-key-id"] != "" {
			list = append(list, storageCredential{prefix, config})
		}
	}
	if err != nil {
		h.fail(c, aboutTable, err)
		return
	}
	h.write(c, http.StatusOK, map[string]any{"storage-credentials": list})
}
