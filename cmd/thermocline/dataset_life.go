package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) datasetCreate() *cobra.Command {
	var schemaFile, sample, format string
	c := &cobra.Command{
		Use:   "create NAME (--schema FILE | --infer FILE)",
		Short: "Create a dataset without a stream",
		Long: `Create an empty dataset: an Iceberg table to which rows come by dataset upload, or from
engines through the Iceberg catalog. stream create --from-dataset makes it a stream.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (schemaFile == "") == (sample == "") {
				return usage("dataset create needs --schema FILE or --infer FILE")
			}
			var from client.CreateStream
			if err := a.schemaOf(c, schemaFile, sample, &from); err != nil {
				return fmt.Errorf("create dataset %s: %w", args[0], err)
			}
			body := client.CreateDataset{Name: args[0], Schema: from.Schema, Sample: from.Sample}
			if format != "" {
				body.DatasetFormat = (*client.DatasetFormat)(upper(format))
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var d client.Dataset
			resp, err := remote.CreateDataset(c.Context(), body)
			if err := a.answer(resp, err, &d); err != nil {
				return err
			}
			return a.showDataset(d)
		},
	}
	c.Flags().StringVar(&schemaFile, "schema", "", "file with the schema: our JSON form or an Avro schema; - is standard input")
	c.Flags().StringVar(&sample, "infer", "", "file of rows to infer the schema from: NDJSON, CSV, Parquet or Avro")
	c.Flags().StringVar(&format, "dataset-format", "", "of files that uploaded rows are written to: PARQUET or AVRO")
	return c
}

func (a *app) showDataset(d client.Dataset) error {
	if err := a.show(d, "", [][]string{
		{"name", d.Name}, {"kind", string(d.Kind)}, {"created", when(d.CreatedAt)}, {"snapshot", text(d.SnapshotID)},
		{"rows", count(d.TotalRows)}, {"files", count(d.TotalFiles)}, {"bytes", count(d.TotalBytes)}, {"table", d.MetadataLocation},
	}); err != nil || a.output == "json" {
		return err
	}
	fmt.Fprintln(a.out)
	rows := make([][]string, len(d.Columns))
	for i, col := range d.Columns {
		null := "nullable"
		if col.Required {
			null = "required"
		}
		rows[i] = []string{col.Name, col.Type, null}
	}
	return a.printTable("COLUMN TYPE NULL", rows)
}

func (a *app) datasetList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the datasets without a stream",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			all := client.DatasetList{Datasets: []client.DatasetSummary{}}
			for token := (*string)(nil); ; {
				var page client.DatasetList
				size := 1000
				resp, err := remote.ListDatasets(c.Context(), &client.ListDatasetsParams{Limit: &size, PageToken: token})
				if err := a.answer(resp, err, &page); err != nil {
					return err
				}
				all.Datasets = append(all.Datasets, page.Datasets...)
				if token = page.NextPageToken; token == nil {
					break
				}
			}
			rows := make([][]string, len(all.Datasets))
			for i, d := range all.Datasets {
				rows[i] = []string{d.Name, when(d.CreatedAt)}
			}
			return a.show(all, "NAME CREATED", rows)
		},
	}
}

func (a *app) datasetShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a dataset, also that of a stream: kind, size and columns",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var d client.Dataset
			resp, err := remote.GetDataset(c.Context(), args[0])
			if err := a.answer(resp, err, &d); err != nil {
				return err
			}
			return a.showDataset(d)
		},
	}
}

func (a *app) datasetDelete() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a dataset without a stream, with all its branches and rows",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("Delete the dataset %s with all its rows? There is no way back.", args[0])); err != nil {
				return err
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			resp, err := remote.DeleteDataset(c.Context(), args[0])
			if err := a.answer(resp, err, nil); err != nil {
				return err
			}
			return a.deleted(args[0], "%s", args[0])
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// moveHead is the command that asks the server to make another snapshot the newest.
func (a *app) moveHead(use, short, long string, call func(c *cobra.Command, remote *client.Client, name, branch, snapshot string) (client.SnapshotChange, error)) *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			out, err := call(c, remote, args[0], branch, args[1])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(out)
			}
			_, err = fmt.Fprintf(a.out, "%s is at snapshot %s now, with %s rows\n", args[0], text(out.SnapshotID), count(out.TotalRows))
			return err
		},
	}
	branchFlag(c, &branch)
	return c
}

func (a *app) datasetRollback() *cobra.Command {
	return a.moveHead("rollback NAME SNAPSHOT", "Make an older snapshot of a dataset the newest again",
		`Make a snapshot of the dataset's history the newest again. Those behind it can still be
read by their ids, and their appends picked, until they expire.`,
		func(c *cobra.Command, remote *client.Client, name, branch, snapshot string) (out client.SnapshotChange, err error) {
			resp, err := remote.RollbackDataset(c.Context(), name, branch, client.SnapshotChoice{SnapshotID: snapshot})
			return out, a.answer(resp, err, &out)
		})
}

func (a *app) datasetCherryPick() *cobra.Command {
	return a.moveHead("cherry-pick NAME SNAPSHOT", "Add the rows of an append that a rollback left behind",
		"Add the files that a snapshot outside of the newest one's history had added.",
		func(c *cobra.Command, remote *client.Client, name, branch, snapshot string) (out client.SnapshotChange, err error) {
			resp, err := remote.CherryPickSnapshot(c.Context(), name, branch, client.SnapshotChoice{SnapshotID: snapshot})
			return out, a.answer(resp, err, &out)
		})
}
