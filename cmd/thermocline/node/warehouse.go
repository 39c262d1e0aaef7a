package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/schema"
)

// find returns a branch of a stream as the directory has it, or of a dataset without
// one: then with neither schema nor views.
func (n *Node) find(ctx context.Context, name, branchName string) (*branch.State, error) {
	st, err := n.directory.Resolve(name, branchName)
	if err == nil || !errors.Is(err, record.ErrNotFound) {
		return st, err
	}
	s, b, cerr := branches{n}.resolve(ctx, name, branchName)
	if cerr != nil {
		return nil, cerr
	}
	if s.Kind == catalog.KindStream {
		return nil, err // about to be opened, or to go
	}
	return &branch.State{Stream: s, Branch: b}, nil
}

// eachDataset visits the branches of all datasets without a stream.
func (n *Node) eachDataset(ctx context.Context, visit func(*branch.State) error) error {
	for token := ""; ; {
		page, err := n.catalog.ListStreams(ctx, catalog.StreamQuery{Kind: catalog.KindDataset, Limit: catalog.MaxPage, PageToken: token})
		if err != nil {
			return err
		}
		for _, s := range page.Streams {
			for after := catalog.BranchID(0); ; {
				list, err := n.catalog.Branches(ctx, s.ID, after, catalog.MaxPage)
				if err != nil {
					return err
				}
				for _, b := range list {
					after = b.ID
					if err := visit(&branch.State{Stream: s, Branch: b}); err != nil {
						return err
					}
				}
				if len(list) < catalog.MaxPage {
					break
				}
			}
		}
		if token = page.Next; token == "" {
			return nil
		}
	}
}

// warehouse is the life of datasets without a stream.
type warehouse struct{ n *Node }

func (w warehouse) CreateDataset(ctx context.Context, c api.CreateDataset) (api.Dataset, error) {
	s, b, err := w.n.directory.CreateDataset(ctx, c.Name, c.Schema, catalog.Settings{DatasetFormat: catalog.DatasetFormat(c.Format)})
	if err != nil {
		return api.Dataset{}, err
	}
	return w.show(ctx, s, b)
}

func (w warehouse) Dataset(ctx context.Context, name string) (api.Dataset, error) {
	s, b, err := branches(w).resolve(ctx, name, catalog.MainBranch)
	if err != nil {
		return api.Dataset{}, err
	}
	return w.show(ctx, s, b)
}

func (w warehouse) show(ctx context.Context, s catalog.Stream, b catalog.Branch) (api.Dataset, error) {
	t, err := w.n.datasets.Load(ctx, b.TableUUID)
	if err != nil {
		return api.Dataset{}, fmt.Errorf("dataset %s: %w", s.FullName(), err)
	}
	out := api.Dataset{StreamSummary: summary(s), Kind: string(s.Kind), TableUUID: b.TableUUID, MetadataLocation: t.MetadataLocation()}
	if head, ok := t.Head(); ok {
		out.Snapshot, out.TotalRows, out.TotalFiles, out.TotalBytes = head.ID, head.TotalRows, head.TotalFiles, head.TotalBytes
	}
	for _, f := range t.Schema().Fields() {
		out.Columns = append(out.Columns, api.Column{Name: f.Name, Type: f.Type.String(), Required: f.Required})
	}
	return out, nil
}

func (w warehouse) ListDatasets(ctx context.Context, p api.Page) ([]api.StreamSummary, string, error) {
	return w.n.list(ctx, catalog.KindDataset, p)
}

func (w warehouse) DeleteDataset(ctx context.Context, name string) error {
	return w.n.directory.DeleteDataset(ctx, name)
}

func (w warehouse) TableSchema(ctx context.Context, dataset, branchName string) (api.TableSchema, error) {
	b, err := datasets(w).load(ctx, dataset, branchName)
	if err != nil {
		return api.TableSchema{}, err
	}
	var out api.TableSchema
	if out.Iceberg, err = json.Marshal(b.Table.Schema()); err != nil {
		return out, fmt.Errorf("schema of %s: %w", b.Name(), err)
	}
	out.Schema, out.Unfit = schema.FromIceberg(b.Table.Schema())
	return out, nil
}

func (w warehouse) StartStream(ctx context.Context, name string, p api.SettingsPatch) (api.Stream, error) {
	st, err := w.n.directory.Start(ctx, name, func(s catalog.Settings) catalog.Settings { return patched(s, p) })
	if err != nil {
		return api.Stream{}, err
	}
	return backend(w).stream(ctx, st)
}
