package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) datasetCompact() *cobra.Command {
	var branch string
	var dryRun bool
	c := &cobra.Command{
		Use:   "compact NAME",
		Short: "Rewrite many small files of a dataset into few large ones",
		Long: `Rewrite neighbouring small files of a dataset into files of about 256 MiB, as long as
there are enough of them. No row changes, and archives and reads go on meanwhile.

The small files stay on disk for as long as older snapshots have them: see dataset
expire and dataset gc. The server does all three by itself; the commands are for those
who cannot wait.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var r client.CompactResult
			err = a.watched(c.Context(), remote, args[0], branch, "compact", func(ctx context.Context) error {
				resp, err := remote.CompactDataset(ctx, args[0], branch, client.CompactFiles{DryRun: &dryRun})
				return a.answer(resp, err, &r)
			})
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(r)
			}
			if r.ReplacedFiles == 0 {
				_, err = fmt.Fprintln(a.out, "nothing to do: there are not enough small files beside each other")
				return err
			}
			if dryRun {
				_, err = fmt.Fprintf(a.out, "%s files of %s bytes with %s rows would become %s\n", count(r.ReplacedFiles), count(r.BytesBefore), count(r.Rows), count(r.WrittenFiles))
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s files of %s bytes became %s of %s bytes with %s rows, %.1f s; snapshot %s\n",
				count(r.ReplacedFiles), count(r.BytesBefore), count(r.WrittenFiles), count(r.BytesAfter), count(r.Rows), r.Seconds, text(r.SnapshotID))
			return err
		},
	}
	branchFlag(c, &branch)
	dryRunFlag(c, &dryRun)
	return c
}

func (a *app) datasetExpire() *cobra.Command {
	var branch string
	var olderThan time.Duration
	var keepLast int
	var dryRun bool
	c := &cobra.Command{
		Use:   "expire NAME",
		Short: "Forget old snapshots of a dataset",
		Long: `Drop old snapshots from a dataset's history: they can no longer be read. The newest one,
those that a tag or branch names, and all rows of what stays are kept. No file is
deleted: that is what dataset gc does, later.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if olderThan < 0 {
				return usage("--older-than %v: use 0 (all but the newest) or more, like 120h", olderThan)
			}
			if keepLast < 1 {
				return usage("--keep-last %d: use 1 or more; the newest snapshot always stays", keepLast)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			age := olderThan.String()
			var r client.ExpireResult
			err = a.watched(c.Context(), remote, args[0], branch, "expire", func(ctx context.Context) error {
				resp, err := remote.ExpireSnapshots(ctx, args[0], branch, client.ExpireSnapshots{OlderThan: &age, KeepLast: &keepLast, DryRun: &dryRun})
				return a.answer(resp, err, &r)
			})
			if err != nil {
				return err
			}
			rows := make([][]string, len(r.SnapshotIds))
			for i, id := range r.SnapshotIds {
				rows[i] = []string{id}
			}
			if len(rows) > 0 || a.output == "json" {
				if err := a.show(r, "SNAPSHOT", rows); err != nil || a.output == "json" {
					return err
				}
			}
			if r.Expired > len(rows) {
				fmt.Fprintf(a.out, "… and %s more\n", count(r.Expired-len(rows)))
			}
			_, err = fmt.Fprintf(a.out, "%s snapshots %s, %s stay\n", count(r.Expired), done(dryRun, "expired"), count(r.Kept))
			return err
		},
	}
	branchFlag(c, &branch)
	c.Flags().DurationVar(&olderThan, "older-than", 120*time.Hour, "how long a snapshot is kept after a newer one took its place")
	c.Flags().IntVar(&keepLast, "keep-last", 1, "how many of the newest snapshots stay whatever their age")
	dryRunFlag(c, &dryRun)
	return c
}

func (a *app) datasetGC() *cobra.Command {
	var branch string
	var grace time.Duration
	var dryRun bool
	c := &cobra.Command{
		Use:   "gc NAME",
		Short: "Delete files of a dataset that nothing leads to",
		Long: `Delete files that no retained snapshot of any branch leads to: those of expired snapshots,
failed commits and crashes. A file goes at the second look, at least --grace after the
first one that found it; until then it is listed as waiting. The server looks every hour.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if grace < time.Hour {
				return usage("--grace %v: use 1h or more; younger files may belong to a commit under way", grace)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			wait := grace.String()
			var r client.CollectResult
			err = a.watched(c.Context(), remote, args[0], branch, "gc", func(ctx context.Context) error {
				resp, err := remote.CollectFiles(ctx, args[0], branch, client.CollectFiles{Grace: &wait, DryRun: &dryRun})
				return a.answer(resp, err, &r)
			})
			if err != nil {
				return err
			}
			rows := make([][]string, len(r.Files))
			for i, f := range r.Files {
				state := "waits"
				if f.Deleted {
					state = done(dryRun, "deleted")
				}
				rows[i] = []string{f.Key, count(f.Bytes), when(f.Since), state}
			}
			if len(rows) > 0 || a.output == "json" {
				if err := a.show(r, "FILE BYTES UNREACHED-SINCE STATE", rows); err != nil || a.output == "json" {
					return err
				}
			}
			if more := r.DeletedFiles + r.WaitingFiles - len(rows); more > 0 {
				fmt.Fprintf(a.out, "… and %s more\n", count(more))
			}
			next := ""
			if r.NextDueAt != nil {
				next = ", the first until " + when(*r.NextDueAt)
			}
			_, err = fmt.Fprintf(a.out, "%s of %s files %s, %s bytes; %s wait, %s bytes%s\n", count(r.DeletedFiles), count(r.ListedFiles), done(dryRun, "deleted"),
				count(r.DeletedBytes), count(r.WaitingFiles), count(r.WaitingBytes), next)
			return err
		},
	}
	branchFlag(c, &branch)
	c.Flags().DurationVar(&grace, "grace", 24*time.Hour, "how long a file must be known to be unreached; longer than any read or write of it")
	dryRunFlag(c, &dryRun)
	return c
}

func dryRunFlag(c *cobra.Command, v *bool) {
	c.Flags().BoolVar(v, "dry-run", false, "only show what would be done")
}

// done tells what was done, or would be.
func done(dryRun bool, what string) string {
	if dryRun {
		return "would be " + what
	}
	return what
}
