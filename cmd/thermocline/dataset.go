package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) datasetCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "dataset", Short: "Datasets without a stream, and the archived half of streams"})
	read := a.readCommand()
	read.Short, read.Example = "Read a dataset, also that of a stream, to standard output", "  thermocline dataset read seismic.stations --as-of 2026-02-01T00:00:00Z --format csv"
	c.AddCommand(read, a.datasetCreate(), a.datasetList(), a.datasetShow(), a.datasetDelete(), a.datasetUpload(), a.datasetRemove(),
		a.datasetTransactions(), a.datasetAbort(), a.datasetRollback(), a.datasetCherryPick())
	c.AddCommand(a.datasetHistory(), a.datasetFiles(), a.datasetCompact(), a.datasetExpire(), a.datasetGC(), a.datasetErase(), a.datasetMaintenance())
	return c
}

// pageSize is how many entries to ask for next, when want are wanted in all (0:
// no bound) and have are there.
func pageSize(want, have int) int {
	if want == 0 {
		return 1000
	}
	return min(1000, want-have)
}

func (a *app) datasetHistory() *cobra.Command {
	var branch string
	var limit int
	c := &cobra.Command{
		Use:   "history NAME",
		Short: "List the snapshots of a dataset, newest first",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 0 {
				return usage("--limit %d: use 0 (all) or more", limit)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			all := client.SnapshotList{Snapshots: []client.Snapshot{}}
			for token := (*string)(nil); limit == 0 || len(all.Snapshots) < limit; {
				var page client.SnapshotList
				size := pageSize(limit, len(all.Snapshots))
				resp, err := remote.ListSnapshots(c.Context(), args[0], branch, &client.ListSnapshotsParams{Limit: &size, PageToken: token})
				if err := a.answer(resp, err, &page); err != nil {
					return err
				}
				all.MetadataLocation, all.Snapshots = page.MetadataLocation, append(all.Snapshots, page.Snapshots...)
				if token = page.NextPageToken; token == nil {
					break
				}
			}
			rows := make([][]string, len(all.Snapshots))
			for i, s := range all.Snapshots {
				rows[i] = []string{s.ID, when(s.CommittedAt), s.Operation, count(s.AddedRows), count(s.AddedFiles), count(s.TotalRows), count(s.TotalFiles), count(s.TotalBytes)}
			}
			if err := a.show(all, "SNAPSHOT COMMITTED OPERATION +ROWS +FILES ROWS FILES BYTES", rows); err != nil || a.output == "json" {
				return err
			}
			_, err = fmt.Fprintf(a.out, "the table is %s\n", all.MetadataLocation)
			return err
		},
	}
	branchFlag(c, &branch)
	c.Flags().IntVar(&limit, "limit", 100, "most snapshots to list; 0 is all")
	return c
}

func (a *app) datasetFiles() *cobra.Command {
	var branch, snapshot string
	c := &cobra.Command{
		Use:   "files NAME",
		Short: "List the data files of a dataset",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			all := client.DataFileList{Files: []client.DataFile{}}
			size := 1000
			params := client.ListDataFilesParams{Limit: &size}
			if snapshot != "" {
				params.Snapshot = &snapshot
			}
			for {
				var page client.DataFileList
				resp, err := remote.ListDataFiles(c.Context(), args[0], branch, &params)
				if err := a.answer(resp, err, &page); err != nil {
					return err
				}
				all.SnapshotID, all.Files = page.SnapshotID, append(all.Files, page.Files...)
				if params.PageToken = page.NextPageToken; params.PageToken == nil {
					break
				}
			}
			rows := make([][]string, len(all.Files))
			for i, f := range all.Files {
				rows[i] = []string{f.Path, f.Format, count(f.Rows), count(f.Bytes), text(f.SnapshotID)}
			}
			if err := a.show(all, "PATH FORMAT ROWS BYTES ADDED-BY", rows); err != nil || a.output == "json" {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%d files in snapshot %s\n", len(all.Files), text(all.SnapshotID))
			return err
		},
	}
	branchFlag(c, &branch)
	c.Flags().StringVar(&snapshot, "snapshot", "", "id of a snapshot (default: the newest)")
	return c
}
