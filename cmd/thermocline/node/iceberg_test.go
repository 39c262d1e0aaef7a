package node

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/schema"
)

// client is an HTTP client of the node's Iceberg REST catalog.
type client struct {
	w *world
	a *api.API
}

func (w *world) client() *client {
	w.t.Helper()
	a, err := api.New(w.b, api.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	return &client{w, a}
}

// answer is what a request was told.
type answer struct {
	status int
	header http.Header
	text   string
	body   struct {
		Error struct {
			Message, Type string
			Code          int
		}
		Overrides        map[string]string
		Endpoints        []string
		Namespaces       [][]string
		Identifiers      []struct{ Name string }
		NextPageToken    string `json:"next-page-token"`
		Properties       map[string]string
		Removed          []string
		Missing          []string
		MetadataLocation string `json:"metadata-location"`
		Metadata         struct {
			UUID            string `json:"table-uuid"`
			Location        string
			LastColumnID    int   `json:"last-column-id"`
			CurrentSchemaID int   `json:"current-schema-id"`
			CurrentSnapshot int64 `json:"current-snapshot-id"`
			LastSequence    int64 `json:"last-sequence-number"`
			Properties      map[string]string
			Schemas         []json.RawMessage
			Snapshots       []struct {
				ID           int64  `json:"snapshot-id"`
				ManifestList string `json:"manifest-list"`
				TimestampMs  int64  `json:"timestamp-ms"`
			}
		}
	}
}

// do sends a request; headers are pairs.
func (c *client) do(method, path, body string, headers ...string) *answer {
	c.w.t.Helper()
	q := httptest.NewRequest(method, "/iceberg"+path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	r := httptest.NewRecorder()
	c.a.ServeHTTP(r, q.WithContext(c.w.t.Context()))
	out := &answer{status: r.Code, header: r.Header(), text: r.Body.String()}
	if out.text != "" {
		if err := json.Unmarshal([]byte(out.text), &out.body); err != nil {
			c.w.t.Fatalf("%s %s: %v in %s", method, path, err, out.text)
		}
	}
	if e := out.body.Error; out.status >= 400 && method != http.MethodHead && (e.Code != out.status || e.Type == "" || e.Message == "") {
		c.w.t.Errorf("%s %s: status %d with %s", method, path, out.status, out.text)
	}
	return out
}

// want sends a request and fails unless it is answered so; kind is the error's type.
func (c *client) want(status int, kind, method, path, body string, headers ...string) *answer {
	c.w.t.Helper()
	a := c.do(method, path, body, headers...)
	if a.status != status || a.body.Error.Type != kind {
		c.w.t.Fatalf("%s %s %s: status %d, want %d %s: %.500s", method, path, body, a.status, status, kind, a.text)
	}
	return a
}

const (
	badRequest   = "BadRequestException"
	commitFailed = "CommitFailedException"
	noTable      = "NoSuchTableException"
	noNamespace  = "NoSuchNamespaceException"
	exists       = "AlreadyExistsException"
)

const xs = `{"type":"struct","fields":[{"id":7,"name":"x","required":false,"type":"long"}]}`

func TestIcebergNamespaces(t *testing.T) {
	t.Parallel()
	c := newWorld(t, catalog.Settings{}).client()
	conf := c.want(200, "", "GET", "/v1/config", "")
	if conf.body.Overrides["prefix"] != "main" || !slices.Contains(conf.body.Endpoints, "POST /v1/{prefix}/transactions/commit") {
		t.Errorf("config %s", conf.text)
	}
	c.want(200, "", "POST", "/v1/main/namespaces", `{"namespace":["lab"],"properties":{"a":"1","b":"2"}}`)
	c.want(409, exists, "POST", "/v1/main/namespaces", `{"namespace":["lab"]}`)
	c.want(400, badRequest, "POST", "/v1/main/namespaces", `{"namespace":["lab","deep"]}`)
	c.want(400, badRequest, "POST", "/v1/main/namespaces", `{"namespace":["no good"]}`)
	c.want(400, badRequest, "POST", "/v1/main/namespaces", `{"namespace":`)
	if a := c.want(200, "", "GET", "/v1/namespaces", ""); len(a.body.Namespaces) != 2 || a.body.Namespaces[1][0] != "lab" {
		t.Errorf("namespaces %s", a.text)
	}
	page := c.want(200, "", "GET", "/v1/namespaces?pageToken=&pageSize=1", "")
	if len(page.body.Namespaces) != 1 || page.body.NextPageToken == "" {
		t.Errorf("page %s", page.text)
	}
	page = c.want(200, "", "GET", "/v1/namespaces?pageSize=1&pageToken="+page.body.NextPageToken, "")
	if len(page.body.Namespaces) != 1 || page.body.Namespaces[0][0] != "lab" {
		t.Errorf("next page %s", page.text)
	}
	c.want(404, noNamespace, "GET", "/v1/namespaces?parent=nobody", "")
	c.want(200, "", "GET", "/v1/namespaces?parent=lab", "")
	if a := c.want(200, "", "GET", "/v1/main/namespaces/lab", ""); a.body.Properties["a"] != "1" {
		t.Errorf("namespace %s", a.text)
	}
	c.want(204, "", "HEAD", "/v1/main/namespaces/lab", "")
	c.want(404, "", "HEAD", "/v1/main/namespaces/none", "")
	c.want(404, noNamespace, "GET", "/v1/main/namespaces/lab%1Fdeep", "")
	c.want(422, "UnprocessableEntityException", "POST", "/v1/main/namespaces/lab/properties", `{"removals":["a"],"updates":{"a":"x"}}`)
	if a := c.want(200, "", "POST", "/v1/main/namespaces/lab/properties", `{"removals":["a","z"],"updates":{"c":"3"}}`); !slices.Equal(a.body.Removed, []string{"a"}) || !slices.Equal(a.body.Missing, []string{"z"}) {
		t.Errorf("properties %s", a.text)
	}
	c.want(400, badRequest, "DELETE", "/v1/main/namespaces/default", "") // it always exists
	c.want(200, "", "POST", "/v1/main/namespaces/lab/tables", `{"name":"t","schema":`+xs+`}`)
	c.want(409, "NamespaceNotEmptyException", "DELETE", "/v1/main/namespaces/lab", "")
	c.want(204, "", "DELETE", "/v1/main/namespaces/lab/tables/t", "")
	c.want(204, "", "DELETE", "/v1/main/namespaces/lab", "")
	c.want(404, noNamespace, "DELETE", "/v1/main/namespaces/lab", "")
	c.want(404, noNamespace, "GET", "/v1/main/namespaces/lab/tables", "")
	c.want(404, "NotFoundException", "GET", "/v1/main/views", "")
	c.want(400, badRequest, "GET", "/v1/config?warehouse=s3://bucket/path", "")
}

func TestIcebergTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	create := func(name, more string) string {
		return fmt.Sprintf(`{"name":%q,"schema":%s%s}`, name, xs, more)
	}
	c.want(404, noNamespace, "POST", "/v1/main/namespaces/none/tables", create("t", ""))
	c.want(400, badRequest, "POST", "/v1/main/namespaces/default/tables", `{"name":"t"}`)
	c.want(400, badRequest, "POST", "/v1/main/namespaces/default/tables", create("t", `,"properties":{"thermocline.stream":"x"}`))
	made := c.want(200, "", "POST", "/v1/main/namespaces/default/tables", create("t", `,"properties":{"owner":"me"}`))
	if made.body.Metadata.LastColumnID != 1 || made.body.Metadata.Properties["owner"] != "me" || made.body.MetadataLocation == "" {
		t.Errorf("created %s", made.text)
	}
	c.want(409, exists, "POST", "/v1/main/namespaces/default/tables", create("t", ""))
	c.want(409, exists, "POST", "/v1/main/namespaces/default/tables", create("s", "")) // a stream
	if a := c.want(200, "", "GET", "/v1/main/namespaces/default/tables", ""); len(a.body.Identifiers) != 2 {
		t.Errorf("tables %s", a.text)
	}
	c.want(204, "", "HEAD", "/v1/main/namespaces/default/tables/t", "")
	c.want(404, "", "HEAD", "/v1/main/namespaces/default/tables/none", "")
	if a := c.want(404, noTable, "GET", "/v1/main/namespaces/default/tables/none", ""); !strings.HasPrefix(a.body.Error.Message, "Table does not exist: default.none") {
		t.Errorf("message %q", a.body.Error.Message)
	}
	loaded := c.want(200, "", "GET", "/v1/main/namespaces/default/tables/t", "")
	tag := loaded.header.Get("ETag")
	if tag == "" || loaded.body.MetadataLocation != made.body.MetadataLocation {
		t.Errorf("loaded %s, ETag %s", loaded.text, tag)
	}
	c.want(304, "", "GET", "/v1/main/namespaces/default/tables/t", "", "If-None-Match", tag)
	c.want(200, "", "GET", "/v1/main/namespaces/default/tables/t?snapshots=refs", "", "If-None-Match", tag)
	c.want(400, badRequest, "GET", "/v1/main/namespaces/default/tables/t?snapshots=some", "")
	next := c.want(200, "", "POST", "/v1/main/namespaces/default/tables/t", `{"requirements":[{"type":"assert-table-uuid","uuid":"`+made.body.Metadata.UUID+`"}],"updates":[{"action":"set-properties","updates":{"k":"v"}}]}`)
	if next.body.Metadata.Properties["k"] != "v" {
		t.Errorf("committed %s", next.text)
	}
	c.want(200, "", "GET", "/v1/main/namespaces/default/tables/t", "", "If-None-Match", tag)
	if a := c.want(409, commitFailed, "POST", "/v1/main/namespaces/default/tables/t", `{"requirements":[{"type":"assert-last-assigned-field-id","last-assigned-field-id":9}],"updates":[]}`); a.body.Error.Message != "Requirement failed: last assigned field id changed: expected id 9 != 1" {
		t.Errorf("message %q", a.body.Error.Message)
	}
	c.want(400, badRequest, "POST", "/v1/main/namespaces/default/tables/t", `{"requirements":[{"type":"assert-luck"}],"updates":[]}`)
	c.want(400, badRequest, "POST", "/v1/main/namespaces/default/tables/t", `{"requirements":[],"updates":[{"action":"juggle"}]}`)
	c.want(404, noTable, "POST", "/v1/main/namespaces/default/tables/none", `{"requirements":[],"updates":[]}`)
	c.want(400, badRequest, "POST", "/v1/main/namespaces/default/tables/t", `{"identifier":{"namespace":["default"],"name":"s"},"updates":[]}`)
	c.want(204, "", "POST", "/v1/main/namespaces/default/tables/t/metrics", `{"report-type":"scan-report","table-name":"t"}`)
	c.want(200, "", "GET", "/v1/main/namespaces/default/tables/t/credentials", "")

	// A staged table does not exist before it is committed.
	staged := c.want(200, "", "POST", "/v1/main/namespaces/default/tables", create("later", `,"stage-create":true`))
	c.want(404, noTable, "GET", "/v1/main/namespaces/default/tables/later", "")
	commit := fmt.Sprintf(`{"requirements":[{"type":"assert-create"}],"updates":[{"action":"assign-uuid","uuid":%q},{"action":"upgrade-format-version","format-version":2},
		{"action":"add-schema","schema":%s},{"action":"set-current-schema","schema-id":-1},{"action":"add-spec","spec":{"spec-id":0,"fields":[]}},{"action":"set-default-spec","spec-id":-1},
		{"action":"add-sort-order","sort-order":{"order-id":0,"fields":[]}},{"action":"set-default-sort-order","sort-order-id":-1},{"action":"set-location","location":%q}]}`,
		staged.body.Metadata.UUID, staged.body.Metadata.Schemas[0], staged.body.Metadata.Location)
	if a := c.want(200, "", "POST", "/v1/main/namespaces/default/tables/later", commit); a.body.Metadata.UUID != staged.body.Metadata.UUID {
		t.Errorf("committed %s", a.text)
	}
	c.want(409, exists, "POST", "/v1/main/namespaces/default/tables/later", commit)

	// Names, and tables that come back.
	rename := func(from, to string) string {
		return fmt.Sprintf(`{"source":{"namespace":["default"],"name":%q},"destination":{"namespace":["default"],"name":%q}}`, from, to)
	}
	c.want(204, "", "POST", "/v1/main/tables/rename", rename("t", "u"))
	c.want(404, noTable, "POST", "/v1/main/tables/rename", rename("t", "v"))
	c.want(409, exists, "POST", "/v1/main/tables/rename", rename("u", "later"))
	c.want(400, badRequest, "POST", "/v1/main/tables/rename", rename("s", "v"))
	c.want(404, noNamespace, "POST", "/v1/main/tables/rename", `{"source":{"namespace":["default"],"name":"u"},"destination":{"namespace":["none"],"name":"u"}}`)
	last := c.want(200, "", "GET", "/v1/main/namespaces/default/tables/u", "").body.MetadataLocation
	register := func(name string) string { return fmt.Sprintf(`{"name":%q,"metadata-location":%q}`, name, last) }
	c.want(409, exists, "POST", "/v1/main/namespaces/default/register", register("again")) // it has a name
	c.want(204, "", "DELETE", "/v1/main/namespaces/default/tables/u", "")
	c.want(404, noTable, "DELETE", "/v1/main/namespaces/default/tables/u", "")
	c.want(409, exists, "POST", "/v1/main/namespaces/default/register", register("later"))
	c.want(400, badRequest, "POST", "/v1/main/namespaces/default/register", `{"name":"again","metadata-location":"file:///nowhere/00000.metadata.json"}`)
	if a := c.want(200, "", "POST", "/v1/main/namespaces/default/register", register("again")); a.body.Metadata.Properties["k"] != "v" {
		t.Errorf("registered %s", a.text)
	}
	c.want(204, "", "DELETE", "/v1/main/namespaces/default/tables/again?purgeRequested=true", "")

	// A stream stays.
	c.want(400, badRequest, "DELETE", "/v1/main/namespaces/default/tables/s", "")
	c.want(400, badRequest, "DELETE", "/v1/main/namespaces/default/tables/s?purgeRequested=true", "")
	c.want(200, "", "GET", "/v1/main/namespaces/default/tables/s", "")
}

// TestIcebergBranches: the branch is chosen by warehouse, header or name.
func TestIcebergBranches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	w.publish(5)
	w.fork("exp", branch.From{})
	w.put("exp", 100, 101)
	main := c.want(200, "", "GET", "/v1/namespaces/default/tables/s", "").body.Metadata.UUID
	if conf := c.want(200, "", "GET", "/v1/config?warehouse=exp", ""); conf.body.Overrides["prefix"] != "exp" {
		t.Errorf("config %s", conf.text)
	}
	var exp string
	for _, a := range []*answer{
		c.want(200, "", "GET", "/v1/exp/namespaces/default/tables/s", "", "X-Thermocline-Fresh", "1"),
		c.want(200, "", "GET", "/v1/namespaces/default/tables/s", "", "X-Thermocline-Branch", "exp"),
		c.want(200, "", "GET", "/v1/main/namespaces/default/tables/s", "", "X-Thermocline-Branch", "exp"),
		c.want(200, "", "GET", "/v1/main/namespaces/default/tables/s@exp", ""),
	} {
		if exp == "" {
			exp = a.body.Metadata.UUID
		}
		if a.body.Metadata.UUID != exp || exp == main {
			t.Errorf("table %s, main is %s", a.body.Metadata.UUID, main)
		}
	}
	if got := w.cold("exp"); !slices.Equal(got, []int64{0, 1, 2, 3, 4, 100, 101}) {
		t.Errorf("fresh: the dataset of exp has %v", got)
	}
	if a := c.want(200, "", "GET", "/v1/exp/namespaces/default/tables/s@main", ""); a.body.Metadata.UUID != main {
		t.Errorf("s@main of exp is %s", a.body.Metadata.UUID)
	}
	c.want(404, noTable, "GET", "/v1/nope/namespaces/default/tables/s", "")
	if a := c.want(200, "", "GET", "/v1/nope/namespaces/default/tables/s", "", "X-Thermocline-Fallback", "none, exp,main"); a.body.Metadata.UUID != exp {
		t.Errorf("fell back to %s", a.body.Metadata.UUID)
	}
	c.want(400, badRequest, "GET", "/v1/nope/namespaces/default/tables/s", "", "X-Thermocline-Fallback", "no good")
	c.want(200, "", "POST", "/v1/main/namespaces/default/tables", `{"name":"t","schema":`+xs+`}`)
	if a := c.want(200, "", "GET", "/v1/exp/namespaces/default/tables", ""); len(a.body.Identifiers) != 1 {
		t.Errorf("tables of exp: %s", a.text)
	}
	c.want(400, badRequest, "POST", "/v1/exp/namespaces/default/tables", `{"name":"v","schema":`+xs+`}`)
	c.want(400, badRequest, "DELETE", "/v1/exp/namespaces/default/tables/s", "")
}

// TestIcebergFilesAreKept: engines are told not to delete files of a stream, nor to
// fail because rows come, and cannot change the first.
func TestIcebergFilesAreKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	w.publish(5)
	const path = "/v1/namespaces/default/tables/s"
	properties := c.want(200, "", "GET", path, "").body.Metadata.Properties
	for key, want := range map[string]string{
		"gc.enabled": "false", "write.delete.isolation-level": "snapshot",
		"write.update.isolation-level": "snapshot", "write.merge.isolation-level": "snapshot",
	} {
		if properties[key] != want {
			t.Errorf("property %s is %q, want %q", key, properties[key], want)
		}
	}
	set := func(properties string) string {
		return `{"updates":[{"action":"set-properties","updates":{` + properties + `}}]}`
	}
	c.want(400, badRequest, "POST", path, set(`"gc.enabled":"true"`))
	c.want(400, badRequest, "POST", path, `{"updates":[{"action":"remove-properties","removals":["gc.enabled"]}]}`)
	c.want(400, badRequest, "POST", "/v1/transactions/commit", `{"table-changes":[{"identifier":{"namespace":["default"],"name":"s"},"updates":[{"action":"set-properties","updates":{"gc.enabled":"true"}}]}]}`)
	a := c.want(200, "", "POST", path, set(`"write.merge.isolation-level":"serializable"`))
	if got := a.body.Metadata.Properties; got["write.merge.isolation-level"] != "serializable" || got["gc.enabled"] != "false" {
		t.Errorf("properties %v", got)
	}

	// A table of its own may be purged by who made it.
	c.want(200, "", "POST", "/v1/namespaces/default/tables", `{"name":"own","schema":`+xs+`}`)
	const own = "/v1/namespaces/default/tables/own"
	c.want(200, "", "POST", own, set(`"gc.enabled":"true"`))
	if got := c.want(200, "", "GET", own, "").body.Metadata.Properties["gc.enabled"]; got != "true" {
		t.Errorf("gc.enabled is %q", got)
	}
}

// TestIcebergMetadataIsGone: a table whose metadata file is not there is not served
// from a cache.
func TestIcebergMetadataIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	w.publish(5)
	const path = "/v1/namespaces/default/tables/s"
	location := c.want(200, "", "GET", path, "").body.MetadataLocation
	key, err := objstore.Key(w.store(), location)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store().Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if a := c.want(404, "NotFoundException", "GET", path, ""); !strings.Contains(a.body.Error.Message, location) {
		t.Errorf("message %q does not name %s", a.body.Error.Message, location)
	}
	// What engines make up of a table's name is no table.
	c.want(404, noTable, "GET", "/v1/namespaces/default%1Fs/tables/files", "")
}

// addColumn is a commit that adds a column to what was loaded.
func addColumn(t *testing.T, a *answer, id int, name, kind string) string {
	t.Helper()
	var s struct {
		Type   string            `json:"type"`
		ID     int               `json:"schema-id"`
		Fields []json.RawMessage `json:"fields"`
	}
	for _, raw := range a.body.Metadata.Schemas {
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		if s.ID == a.body.Metadata.CurrentSchemaID {
			break
		}
	}
	s.Fields = append(s.Fields, json.RawMessage(fmt.Sprintf(`{"id":%d,"name":%q,"required":false,"type":%q}`, id, name, kind)))
	s.ID++
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"requirements":[{"type":"assert-current-schema-id","current-schema-id":%d},{"type":"assert-last-assigned-field-id","last-assigned-field-id":%d}],
		"updates":[{"action":"add-schema","schema":%s},{"action":"set-current-schema","schema-id":-1}]}`, a.body.Metadata.CurrentSchemaID, a.body.Metadata.LastColumnID, text)
}

// TestIcebergSchemaOfAStream: what an engine does to the schema is the stream's
// before it is the table's.
func TestIcebergSchemaOfAStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{KeyFields: []string{"k"}})
	c := w.client()
	w.publish(3)
	w.archiveOn("main")
	w.fork("exp", branch.From{})
	const path = "/v1/main/namespaces/default/tables/s"
	loaded := c.want(200, "", "GET", path, "")
	onExp := c.want(200, "", "GET", "/v1/exp/namespaces/default/tables/s", "")
	id := loaded.body.Metadata.LastColumnID + 1
	c.want(400, badRequest, "POST", path, addColumn(t, loaded, id, "wrong", "uuid"))
	next := c.want(200, "", "POST", path, addColumn(t, loaded, id, "note", "string"))
	if got := w.on("main").Schema.Fields; len(got) != 3 || got[2].Name != "note" || got[2].ID != id || got[2].Type.Kind != schema.String {
		t.Fatalf("the stream's fields: %+v", got)
	}
	if next.body.Metadata.LastColumnID != id {
		t.Errorf("last column id %d", next.body.Metadata.LastColumnID)
	}
	// Another branch has taken the id, so it is none for this one.
	if a := c.want(409, commitFailed, "POST", "/v1/exp/namespaces/default/tables/s", addColumn(t, onExp, id, "other", "long")); !strings.Contains(a.body.Error.Message, "last assigned field id") {
		t.Errorf("message %q", a.body.Error.Message)
	}
	// Nor for a client that does not say which ids it counted on.
	silent := regexp.MustCompile(`\{"type":"assert-last-assigned-field-id"[^}]*\},?`).ReplaceAllString(addColumn(t, onExp, id, "other", "long"), "")
	if strings.Contains(silent, "assigned") {
		t.Fatalf("the request still says it: %s", silent)
	}
	c.want(409, commitFailed, "POST", "/v1/exp/namespaces/default/tables/s", strings.Replace(silent, ",]", "]", 1))
	onExp = c.want(200, "", "GET", "/v1/exp/namespaces/default/tables/s", "")
	if onExp.body.Metadata.LastColumnID != id {
		t.Errorf("last column id on exp %d, want %d", onExp.body.Metadata.LastColumnID, id)
	}
	c.want(200, "", "POST", "/v1/exp/namespaces/default/tables/s", addColumn(t, onExp, id+1, "other", "long"))

	w.publishBody(`{"k":"key-0","n":3,"note":"hello"}` + "\n")
	w.archiveOn("main")
	if got := w.cold("main"); !slices.Equal(got, []int64{0, 1, 2, 3}) {
		t.Errorf("rows %v", got)
	}
	// A commit that is refused for another reason leaves the schema alone.
	now := c.want(200, "", "GET", path, "")
	refused := strings.TrimSuffix(addColumn(t, now, now.body.Metadata.LastColumnID+1, "never", "string"), "]}") + `,{"action":"remove-snapshot-ref","ref-name":"main"}]}`
	c.want(400, badRequest, "POST", path, refused)
	// An archive that began before a column came leaves the column there.
	before := w.on("main").Schema
	c.want(200, "", "POST", path, addColumn(t, now, now.body.Metadata.LastColumnID+1, "kept", "string"))
	if _, err := w.node.datasets.SetSchema(t.Context(), w.on("main").Branch.TableUUID, before); err != nil {
		t.Fatal(err)
	}
	if a := c.want(200, "", "GET", path, ""); !strings.Contains(a.text, `"kept"`) || a.body.Metadata.CurrentSchemaID == now.body.Metadata.CurrentSchemaID {
		t.Errorf("the older schema is back: %.300s", a.text)
	}
	// The stream's schema changes while the table has not followed yet.
	s := w.on("main").Schema.Clone()
	s.Fields = append(s.Fields, schema.Field{Name: "more", Type: schema.Type{Kind: schema.Byte}, Nullable: true})
	if _, err := w.node.directory.Evolve(t.Context(), "s", "main", s); err != nil {
		t.Fatal(err)
	}
	stale := c.want(200, "", "GET", path, "")
	c.want(409, commitFailed, "POST", path, addColumn(t, stale, stale.body.Metadata.LastColumnID+1, "third", "double"))
	fresh := c.want(200, "", "GET", path, "")
	c.want(200, "", "POST", path, addColumn(t, fresh, fresh.body.Metadata.LastColumnID+1, "third", "double"))
	var names []string
	for _, f := range w.on("main").Schema.Fields {
		names = append(names, f.Name)
	}
	if !slices.Equal(names, []string{"k", "n", "note", "kept", "more", "third"}) || w.on("main").Schema.Fields[4].Type.Kind != schema.Byte {
		t.Errorf("fields %v", w.on("main").Schema.Fields)
	}
	w.restart()
	if got := len(w.on("main").Schema.Fields); got != 6 {
		t.Errorf("%d fields after a restart", got)
	}
}

// TestIcebergFieldIDsOfADataset: two branches never give one id to two columns.
func TestIcebergFieldIDsOfADataset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	c.want(200, "", "POST", "/v1/main/namespaces/default/tables", `{"name":"t","schema":`+xs+`}`)
	if _, err := w.node.directory.CreateBranch(t.Context(), "t", branch.NewBranch{Name: "exp"}); err != nil {
		t.Fatal(err)
	}
	const main, exp = "/v1/main/namespaces/default/tables/t", "/v1/exp/namespaces/default/tables/t"
	onMain, onExp := c.want(200, "", "GET", main, ""), c.want(200, "", "GET", exp, "")
	c.want(200, "", "POST", main, addColumn(t, onMain, 2, "y", "string"))
	c.want(409, commitFailed, "POST", exp, addColumn(t, onExp, 2, "z", "long"))
	onExp = c.want(200, "", "GET", exp, "")
	if onExp.body.Metadata.LastColumnID != 2 {
		t.Errorf("last column id %d, want 2", onExp.body.Metadata.LastColumnID)
	}
	c.want(200, "", "POST", exp, addColumn(t, onExp, 3, "z", "long"))
}

// TestIcebergTransaction: several tables change together or not at all.
func TestIcebergTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	for _, name := range []string{"a", "b"} {
		c.want(200, "", "POST", "/v1/main/namespaces/default/tables", fmt.Sprintf(`{"name":%q,"schema":%s}`, name, xs))
	}
	change := func(name, requirements, value string) string {
		return fmt.Sprintf(`{"identifier":{"namespace":["default"],"name":%q},"requirements":[%s],"updates":[{"action":"set-properties","updates":{"k":%q}}]}`, name, requirements, value)
	}
	all := func(changes ...string) string { return `{"table-changes":[` + strings.Join(changes, ",") + `]}` }
	property := func(name string) string {
		return c.want(200, "", "GET", "/v1/main/namespaces/default/tables/"+name, "").body.Metadata.Properties["k"]
	}
	c.want(409, commitFailed, "POST", "/v1/main/transactions/commit", all(change("a", "", "1"), change("b", `{"type":"assert-current-schema-id","current-schema-id":9}`, "1")))
	c.want(404, noTable, "POST", "/v1/main/transactions/commit", all(change("a", "", "1"), change("none", "", "1")))
	c.want(400, badRequest, "POST", "/v1/main/transactions/commit", all(change("a", "", "1"), change("a", "", "2")))
	c.want(400, badRequest, "POST", "/v1/main/transactions/commit", `{"table-changes":[]}`)
	if property("a") != "" || property("b") != "" {
		t.Errorf("a refused transaction left %q and %q", property("a"), property("b"))
	}
	c.want(204, "", "POST", "/v1/main/transactions/commit", all(change("a", "", "2"), change("b", "", "2"), change("s", "", "2")))
	if property("a") != "2" || property("b") != "2" || property("s") != "2" {
		t.Errorf("the transaction left %q, %q and %q", property("a"), property("b"), property("s"))
	}
}

// TestIcebergIdempotency: a request that is sent again is carried out once, also
// where its process ended before the answer.
func TestIcebergIdempotency(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	const tables = "/v1/main/namespaces/default/tables"
	key := func() []string { return []string{"Idempotency-Key", uuid.NewString()} }
	body := `{"name":"t","schema":` + xs + `}`
	k := key()
	first := c.want(200, "", "POST", tables, body, k...)
	again := c.want(200, "", "POST", tables, body, k...)
	if again.body.Metadata.UUID != first.body.Metadata.UUID || again.header.Get("ETag") == "" {
		t.Errorf("again %s", again.text)
	}
	c.want(422, "UnprocessableEntityException", "POST", tables, `{"name":"u","schema":`+xs+`}`, k...)
	c.want(400, badRequest, "POST", tables, body, "Idempotency-Key", "not one")
	k = key()
	c.want(409, exists, "POST", tables, body, k...)
	c.want(204, "", "DELETE", tables+"/t", "")
	c.want(409, exists, "POST", tables, body, k...) // what it was told
	c.want(200, "", "POST", tables, body, key()...)

	// The process ends behind the change and before the answer.
	forget := func(k []string) {
		t.Helper()
		if err := w.node.catalog.EndAnswer(t.Context(), k[1], catalog.Answer{}); err != nil {
			t.Fatal(err)
		}
		w.restart()
		c = w.client()
	}
	set := `{"requirements":[{"type":"assert-last-assigned-field-id","last-assigned-field-id":1}],"updates":[{"action":"add-schema","schema":{"type":"struct","schema-id":1,"fields":[{"id":1,"name":"x","required":false,"type":"long"},{"id":2,"name":"y","required":false,"type":"long"}]}},{"action":"set-current-schema","schema-id":-1}]}`
	k = key()
	landed := c.want(200, "", "POST", tables+"/t", set, k...)
	forget(k)
	if a := c.want(200, "", "POST", tables+"/t", set, k...); a.body.MetadataLocation != landed.body.MetadataLocation {
		t.Errorf("carried out twice: %s", a.text)
	}
	k = key()
	made := c.want(200, "", "POST", tables, `{"name":"v","schema":`+xs+`}`, k...)
	forget(k)
	if a := c.want(200, "", "POST", tables, `{"name":"v","schema":`+xs+`}`, k...); a.body.Metadata.UUID != made.body.Metadata.UUID {
		t.Errorf("made twice: %s", a.text)
	}
	k = key()
	c.want(204, "", "DELETE", tables+"/v", "", k...)
	forget(k)
	c.want(204, "", "DELETE", tables+"/v", "", k...)
	c.want(404, noTable, "DELETE", tables+"/v", "", key()...)
}

// TestIcebergMalformed: whatever comes in a body, the answer is that it is bad, and
// no answer says that something may have happened.
func TestIcebergMalformed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, catalog.Settings{})
	c := w.client()
	w.publish(3)
	w.archiveOn("main")
	const tables = "/v1/main/namespaces/default/tables"
	c.want(200, "", "POST", tables, `{"name":"t","schema":`+xs+`}`)
	loaded := c.want(200, "", "GET", tables+"/t", "")
	s := c.want(200, "", "GET", tables+"/s", "")
	schemas := []string{
		`null`, `7`, `{}`, `[]`, `{"type":"struct"}`, `{"type":"struct","fields":null}`, `{"type":"struct","fields":[null]}`, `{"type":"struct","fields":[{}]}`,
		`{"type":"struct","fields":[{"id":1,"name":"a","required":false,"type":"long"},{"id":1,"name":"b","required":false,"type":"long"}]}`,
		`{"type":"struct","fields":[{"id":1,"name":"a","required":false,"type":"long"},{"id":2,"name":"a","required":false,"type":"long"}]}`,
		`{"type":"struct","fields":[{"id":1,"name":"a","required":false,"type":"tuple"}]}`,
		`{"type":"struct","fields":[{"id":1,"name":"a","required":false,"type":{"type":"list"}}]}`,
		`{"type":"struct","fields":[{"id":1,"name":"a","required":false,"type":{"type":"map","key-id":1,"key":"long","value-id":1,"value":"long"}}]}`,
		`{"type":"struct","fields":[{"id":-5,"name":"","required":false,"type":"decimal(99,98)"}]}`,
		`{"type":"struct","identifier-field-ids":[77],"fields":[{"id":1,"name":"a","required":false,"type":"long"}]}`,
	}
	bad := func(path, body string) {
		t.Helper()
		if a := c.do("POST", path, body); a.status < 400 || a.status >= 500 {
			t.Errorf("%s %s: status %d: %.300s", path, body, a.status, a.text)
		}
	}
	for _, sc := range schemas[:len(schemas)-1] {
		if sc != `{"type":"struct","fields":null}` && sc != `{"type":"struct"}` && sc != `{}` {
			bad(tables, `{"name":"v","schema":`+sc+`}`)
		}
	}
	bad(tables, `{"name":"v","schema":`+xs+`,"partition-spec":{"spec-id":0,"fields":[{"source-id":99,"field-id":1000,"name":"p","transform":"identity"}]}}`)
	bad(tables, `{"name":"v","schema":`+xs+`,"write-order":{"order-id":1,"fields":[{"source-id":99,"transform":"identity","direction":"asc","null-order":"nulls-first"}]}}`)
	bad(tables, `{"name":"v","schema":`+xs+`,"properties":{"format-version":"many"}}`)
	updates := []string{
		`null`, `7`, `{}`, `{"action":null}`, `{"action":"add-snapshot"}`, `{"action":"add-snapshot","snapshot":null}`, `{"action":"add-snapshot","snapshot":{}}`,
		`{"action":"add-snapshot","snapshot":{"snapshot-id":1,"timestamp-ms":1,"sequence-number":1,"manifest-list":"file:///nowhere","summary":{"operation":"append"}}}`,
		`{"action":"add-snapshot","snapshot":{"snapshot-id":1,"timestamp-ms":9999999999999,"sequence-number":1,"manifest-list":"` + loaded.body.Metadata.Location + `/metadata/none.avro","summary":{"operation":"append"}}},{"action":"set-snapshot-ref","ref-name":"main","type":"branch","snapshot-id":1}`,
		`{"action":"add-snapshot","snapshot":{"snapshot-id":1,"timestamp-ms":9999999999999,"sequence-number":1,"manifest-list":"` + loaded.body.MetadataLocation + `","summary":{"operation":"append"}}},{"action":"set-snapshot-ref","ref-name":"main","type":"branch","snapshot-id":1}`,
		`{"action":"set-snapshot-ref","ref-name":"main","type":"branch","snapshot-id":12345}`, `{"action":"set-snapshot-ref","ref-name":"main","type":"twig","snapshot-id":1}`,
		`{"action":"set-current-schema","schema-id":99}`, `{"action":"set-default-spec","spec-id":99}`, `{"action":"set-default-sort-order","sort-order-id":99}`,
		`{"action":"add-spec","spec":null}`, `{"action":"add-spec","spec":{"fields":[{"source-id":99,"name":"p","transform":"bucket[0]"}]}}`, `{"action":"add-sort-order","sort-order":{"fields":[{}]}}`,
		`{"action":"remove-schemas","schema-ids":[0]}`, `{"action":"remove-partition-specs","spec-ids":[0]}`, `{"action":"set-statistics","statistics":{}}`,
		`{"action":"assign-uuid","uuid":"x"}`, `{"action":"upgrade-format-version","format-version":9}`, `{"action":"set-location","location":""}`,
	}
	for _, sc := range schemas {
		updates = append(updates, `{"action":"add-schema","schema":`+sc+`},{"action":"set-current-schema","schema-id":-1}`)
	}
	for _, u := range updates {
		for _, table := range []string{"/t", "/s"} {
			if a := c.do("POST", tables+table, `{"requirements":[],"updates":[`+u+`]}`); a.status >= 500 || a.status < 400 && table == "/s" {
				t.Errorf("%s %s: status %d: %.300s", table, u, a.status, a.text)
			}
		}
		bad(tables+"/new", `{"requirements":[{"type":"assert-create"}],"updates":[`+u+`]}`)
		bad("/v1/main/transactions/commit", `{"table-changes":[{"identifier":{"namespace":["default"],"name":"s"},"updates":[`+u+`]}]}`)
	}
	for _, r := range []string{`null`, `7`, `{}`, `{"type":"assert-table-uuid"}`, `{"type":"assert-ref-snapshot-id","ref":"main"}`, `{"type":"assert-ref-snapshot-id","ref":"main","snapshot-id":"x"}`, `{"type":"assert-table-uuid","uuid":7}`} {
		bad(tables+"/t", `{"requirements":[`+r+`],"updates":[]}`)
	}
	for _, body := range []string{``, `null`, `[]`, `{"updates":7}`, `{"requirements":{}}`} {
		if a := c.do("POST", tables+"/s", body); a.status >= 500 {
			t.Errorf("%s: status %d: %s", body, a.status, a.text)
		}
	}
	if now := c.want(200, "", "GET", tables+"/s", ""); now.body.MetadataLocation != s.body.MetadataLocation {
		t.Error("the stream's table has changed")
	}
}
