package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/schema"
)

// Warehouse is the life of datasets without a stream.
type Warehouse interface {
	// CreateDataset makes an empty dataset with its branch main. ErrExists, ErrInvalid.
	CreateDataset(ctx context.Context, c CreateDataset) (Dataset, error)
	// Dataset shows a dataset, also that of a stream.
	Dataset(ctx context.Context, name string) (Dataset, error)
	// ListDatasets returns a page ordered by name, as ListStreams does.
	ListDatasets(ctx context.Context, p Page) ([]StreamSummary, string, error)
	DeleteDataset(ctx context.Context, name string) error
	// TableSchema is the current schema of a branch's table.
	TableSchema(ctx context.Context, dataset, branch string) (TableSchema, error)
	// StartStream makes a stream of a dataset.
	StartStream(ctx context.Context, name string, p SettingsPatch) (Stream, error)
}

// CreateDataset is a dataset to be made.
type CreateDataset struct {
	Name   string // in full
	Schema *schema.Schema
	Format DatasetFormat // empty: the default
}

// Dataset is a dataset with the table of its branch main.
type Dataset struct {
	StreamSummary
	Kind                              string
	TableUUID                         string
	MetadataLocation                  string
	Snapshot                          int64 // 0: none yet
	TotalRows, TotalFiles, TotalBytes int64 // -1: an engine did not tell
	Columns                           []Column
}

// Column is a top-level column of a table.
type Column struct {
	Name, Type string
	Required   bool
}

// TableSchema is a table's schema in Iceberg's form, and in ours unless Unfit.
type TableSchema struct {
	Iceberg json.RawMessage
	Schema  *schema.Schema
	Unfit   error
}

// CreateDataset makes a dataset without a stream.
func (a *API) CreateDataset(c *gin.Context) {
	var in rest.CreateDataset
	if err := a.readJSON(c, &in, false); err != nil {
		a.fail(c, err)
		return
	}
	// The same rules as for a stream.
	create, err := createStream(rest.CreateStream{Name: in.Name, Schema: in.Schema, Sample: in.Sample})
	if err != nil {
		a.fail(c, err)
		return
	}
	n := CreateDataset{Name: create.Name, Schema: create.Schema}
	if in.DatasetFormat != nil {
		n.Format = DatasetFormat(*in.DatasetFormat)
	}
	got, err := a.b.Warehouse.CreateDataset(c.Request.Context(), n)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Header("Location", "/v1/datasets/"+url.PathEscape(got.Name))
	writeJSON(c, http.StatusCreated, toDataset(got))
}

func toDataset(d Dataset) rest.Dataset {
	out := rest.Dataset{
		Name: d.Name, CreatedAt: d.CreatedAt, Kind: rest.DatasetKind(d.Kind), TableUUID: d.TableUUID, MetadataLocation: d.MetadataLocation,
		SnapshotID: snapshotID(d.Snapshot), TotalRows: d.TotalRows, TotalFiles: d.TotalFiles, TotalBytes: d.TotalBytes,
		Columns: make([]rest.DatasetColumn, len(d.Columns)),
	}
	for i, col := range d.Columns {
		out.Columns[i] = rest.DatasetColumn{Name: col.Name, Type: col.Type, Required: col.Required}
	}
	return out
}

// ListDatasets lists datasets without a stream.
func (a *API) ListDatasets(c *gin.Context, params rest.ListDatasetsParams) {
	p, err := page(params.Limit, params.PageToken)
	if err != nil {
		a.fail(c, err)
		return
	}
	list, next, err := a.b.Warehouse.ListDatasets(c.Request.Context(), p)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.DatasetList{Datasets: make([]rest.DatasetSummary, len(list)), NextPageToken: optional(next)}
	for i, s := range list {
		out.Datasets[i] = rest.DatasetSummary{Name: s.Name, CreatedAt: s.CreatedAt}
	}
	writeJSON(c, http.StatusOK, out)
}

// GetDataset shows a dataset.
func (a *API) GetDataset(c *gin.Context, stream string) {
	name, err := fullName(stream)
	if err != nil {
		a.fail(c, err)
		return
	}
	got, err := a.b.Warehouse.Dataset(c.Request.Context(), name)
	if err != nil {
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, toDataset(got))
}

// DeleteDataset deletes a dataset without a stream.
func (a *API) DeleteDataset(c *gin.Context, stream string) {
	name, err := fullName(stream)
	if err == nil {
		err = a.b.Warehouse.DeleteDataset(c.Request.Context(), name)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Status(http.StatusNoContent)
}

// GetDatasetSchema shows the schema of a branch's table.
func (a *API) GetDatasetSchema(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	got, err := a.b.Warehouse.TableSchema(c.Request.Context(), name, branch)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.DatasetSchema{Iceberg: got.Iceberg}
	if got.Unfit != nil {
		text := got.Unfit.Error()
		out.Unfit = &text
	} else {
		form, err := json.Marshal(got.Schema)
		if err != nil {
			a.fail(c, err)
			return
		}
		ours := rest.Schema(form)
		out.Schema = &ours
	}
	writeJSON(c, http.StatusOK, out)
}

// StartStream starts a stream on a dataset.
func (a *API) StartStream(c *gin.Context, stream string) {
	name, err := fullName(stream)
	if err != nil {
		a.fail(c, err)
		return
	}
	var in rest.StartStream
	if err := a.readJSON(c, &in, true); err != nil {
		a.fail(c, err)
		return
	}
	settings, err := fromSettings(in.Settings)
	if err != nil {
		a.fail(c, err)
		return
	}
	s, err := a.b.Warehouse.StartStream(c.Request.Context(), name, settings)
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
