package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) datasetErase() *cobra.Command {
	var where string
	var grace time.Duration
	var dryRun bool
	c := &cobra.Command{
		Use:   "erase NAME --where CONDITION",
		Short: "Erase rows from all branches, all versions and every file",
		Long: `Erase the rows that match a condition: from every retained snapshot of every branch, from
the hot log, and from every file that held them. It cannot be undone. All branches are
archived first, so that every row acknowledged before is covered. Backups and copies
elsewhere are not. Try --dry-run first: it counts, and changes nothing but that it
archives. When it is interrupted, the same command does the rest.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(where) == "" {
				return usage("--where is missing: say which rows, like --where \"email = 'a@b.c'\"")
			}
			if grace < time.Hour {
				return usage("--grace %v: use 1h or more; younger files may belong to a commit under way", grace)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			wait := grace.String()
			var r client.EraseResult
			err = a.watched(c.Context(), remote, args[0], "main", "erase", func(ctx context.Context) error {
				resp, err := remote.EraseRows(ctx, args[0], client.EraseRows{Where: where, Grace: &wait, DryRun: &dryRun})
				return a.answer(resp, err, &r)
			})
			if err != nil {
				return err
			}
			return a.showErased(&r, dryRun)
		},
	}
	c.Flags().StringVar(&where, "where", "", "which rows, in the language of read --where")
	c.Flags().DurationVar(&grace, "grace", time.Hour, "how old a file that nothing leads to must be to be deleted too; younger ones may belong to a commit under way")
	dryRunFlag(c, &dryRun)
	return c
}

func (a *app) showErased(r *client.EraseResult, dryRun bool) error {
	rows := make([][]string, len(r.Branches))
	for i, b := range r.Branches {
		rows[i] = []string{b.Branch, count(b.Rows), count(b.MatchedFiles), count(b.ExaminedFiles), count(b.BytesBefore), count(b.BytesAfter), count(b.Snapshots)}
	}
	if err := a.show(*r, "BRANCH ROWS FILES OF BYTES NOW SNAPSHOTS", rows); err != nil || a.output == "json" {
		return err
	}
	if dryRun {
		_, err := fmt.Fprintln(a.out, "nothing was erased")
		return err
	}
	fmt.Fprintf(a.out, "%s files of %s bytes deleted; in the hot log %s files were overwritten and %s removed, %.1f s\n",
		count(r.DeletedFiles), count(r.DeletedBytes), count(r.Log.Segments), count(r.Log.RemovedFiles), r.Seconds)
	if r.RemainingFiles > 0 {
		fmt.Fprintf(a.out, "%s files of %s bytes lead nowhere but are younger than the grace: repeat the command later to be sure\n", count(r.RemainingFiles), count(r.RemainingBytes))
	}
	if n := len(r.Log.DamagedFiles); n > 0 {
		fmt.Fprintf(a.out, "%s damaged files of the hot log may hold such rows still: %s\n", count(n), strings.Join(r.Log.DamagedFiles, ", "))
	}
	return nil
}

// watchEvery is how often progress is asked for.
const watchEvery = 500 * time.Millisecond

// watched does long work on a dataset and shows on a terminal how far the server
// is with it. An interrupt ends the request, and the server stops then.
func (a *app) watched(ctx context.Context, remote *client.Client, name, branch, kind string, do func(context.Context) error) error {
	if !isTerminal(a.err) || a.output != "table" {
		return do(ctx)
	}
	watch, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		shown := 0
		defer func() {
			if shown > 0 {
				fmt.Fprintf(a.err, "\r%*s\r", shown, "")
			}
		}()
		for {
			select {
			case <-watch.Done():
				return
			case <-time.After(watchEvery):
			}
			if line := taskLine(watch, remote, name, branch, kind); line != "" {
				fmt.Fprintf(a.err, "\r%-*s", shown, line)
				shown = max(shown, len(line))
			}
		}
	})
	err := do(ctx)
	stop()
	watching.Wait()
	return err
}

// taskLine says where the work stands; "" if that is not known.
func taskLine(ctx context.Context, remote *client.Client, name, branch, kind string) string {
	resp, err := remote.GetMaintenance(ctx, name, branch)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var m client.Maintenance
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&m) != nil {
		return ""
	}
	for _, t := range m.Tasks {
		if t.Kind == kind && t.State == "running" {
			return progressLine(&t)
		}
	}
	return ""
}

func progressLine(t *client.MaintenanceTask) string {
	line := kindOf(t)
	if t.TotalFiles > 0 {
		line += fmt.Sprintf(": %s of %s files", count(t.Files), count(t.TotalFiles))
	} else if t.Files > 0 {
		line += fmt.Sprintf(": %s files", count(t.Files))
	}
	if t.TotalBytes > 0 {
		line += fmt.Sprintf(", %s of %s bytes (%d %%)", count(t.Bytes), count(t.TotalBytes), t.Bytes*100/t.TotalBytes)
	}
	return line
}

func kindOf(t *client.MaintenanceTask) string {
	if t.Phase != nil {
		return t.Kind + ", " + *t.Phase
	}
	return t.Kind
}

func (a *app) datasetMaintenance() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "maintenance NAME",
		Short: "Show the work on a dataset: under way, and the last of each kind",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var m client.Maintenance
			resp, err := remote.GetMaintenance(c.Context(), args[0], branch)
			if err := a.answer(resp, err, &m); err != nil {
				return err
			}
			rows := make([][]string, len(m.Tasks))
			for i := range m.Tasks {
				t := &m.Tasks[i]
				by, ended, said := "server", "-", progressLine(t)
				if t.Requested {
					by = "request"
				}
				if t.EndedAt != nil {
					ended, said = when(*t.EndedAt), text(t.Result)
				}
				if t.Error != nil {
					said = *t.Error
				}
				rows[i] = []string{t.Kind, t.State, by, when(t.StartedAt), ended, said}
			}
			return a.show(m, "WORK STATE BY STARTED ENDED RESULT", rows)
		},
	}
	branchFlag(c, &branch)
	return c
}
