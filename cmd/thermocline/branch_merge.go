package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) branchCompare() *cobra.Command {
	var sample int
	var archived bool
	c := &cobra.Command{
		Use:   "compare NAME BRANCH OTHER",
		Short: "Show what two branches have each for themselves",
		Long: `Show what each of two branches did since they parted, or since one was merged into the other;
how the schema of the second differs from that of the first; and some of the rows in which
it differs: + only it has them, - only the first has them, ~ both have them with other values.`,
		Example: `  thermocline branch compare quakes main experiment
  thermocline branch compare quakes main experiment --sample 0 --output json`,
		Args: cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			if sample < 0 || sample > 1000 {
				return usage("--sample %d: use 0 to 1000", sample)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			archive := !archived
			var r client.BranchComparison
			resp, err := remote.CompareBranches(c.Context(), args[0], args[1], args[2], &client.CompareBranchesParams{Sample: &sample, Archive: &archive})
			if err := a.answer(resp, err, &r); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(r)
			}
			return a.printComparison(args[1], args[2], r)
		},
	}
	c.Flags().IntVar(&sample, "sample", 20, "how many rows of each kind to show, at most 1000")
	c.Flags().BoolVar(&archived, "archived", false, "compare what is archived, without archiving first")
	return c
}

func (a *app) printComparison(branch, other string, r client.BranchComparison) error {
	since := "no common snapshot is kept; each has what the other has not"
	if n := len(r.Bases); n > 0 {
		since = "since snapshot " + r.Bases[n-1].Snapshot + " of " + when(r.Bases[n-1].CommittedAt)
	}
	fmt.Fprintln(a.out, since)
	side := func(name string, s client.ComparedBranch) []string {
		return []string{name, text(s.Snapshot), "+" + count(s.AddedRows), "-" + count(s.RemovedRows), "+" + count(s.AddedFiles), "-" + count(s.RemovedFiles)}
	}
	if err := a.printTable("BRANCH SNAPSHOT ROWS ROWS FILES FILES", [][]string{side(branch, r.Branch), side(other, r.Other)}); err != nil {
		return err
	}
	a.printChanges("schema of "+other, r.Schema)
	if len(r.Added)+len(r.Removed)+len(r.Changed) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	for _, row := range r.Removed {
		fmt.Fprintf(a.out, "- %s%s\n", identityText(row), row.Row)
	}
	for _, row := range r.Changed {
		fmt.Fprintf(a.out, "~ %s%s\n  → %s\n", identityText(row), value(row.Was), row.Row)
	}
	for _, row := range r.Added {
		fmt.Fprintf(a.out, "+ %s%s\n", identityText(row), row.Row)
	}
	if !r.Whole {
		fmt.Fprintln(a.out, "… and more rows differ")
	}
	return nil
}

func value(p *json.RawMessage) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

// identityText is "view/partition/offset ", nothing for rows without identity.
func identityText(r client.ComparedRow) string {
	if r.View == nil || r.Partition == nil || r.Offset == nil {
		return ""
	}
	return fmt.Sprintf("%d/%d/%d ", *r.View, *r.Partition, *r.Offset)
}

func (a *app) printChanges(what string, changes []client.SchemaChange) {
	for _, c := range changes {
		line := c.Kind + " " + c.Path
		switch {
		case c.From != nil && c.To != nil:
			line += ": " + *c.From + " → " + *c.To
		case c.From != nil:
			line += ": " + *c.From
		case c.To != nil:
			line += ": " + *c.To
		}
		fmt.Fprintf(a.out, "%s: %s\n", what, line)
	}
}

func (a *app) branchMerge() *cobra.Command {
	var into, strategy string
	var dryRun bool
	c := &cobra.Command{
		Use:   "merge NAME BRANCH",
		Short: "Merge a branch into another",
		Long: `Bring what a branch got since it parted from another, or was merged into it last, into that
one: rows that came, rows that an engine deleted or rewrote, and the schema. No data is
copied, rows keep their identity, and what came before does not come again. Both branches
go on meanwhile.

Where both sides changed the same rows, or the schemas do not fit, nothing is done, and the
conflicts are listed. The strategies: fast-forward (only if the other branch did nothing
since), replay, and replace (the other branch becomes what this one is). Without one it is
fast-forward where possible, else replay.`,
		Example: `  thermocline branch merge quakes experiment --into main --dry-run
  thermocline branch merge quakes experiment --into main`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			body := client.MergeBranch{Into: into, DryRun: &dryRun}
			if strategy != "" {
				if s := client.MergeStrategy(strategy); s.Valid() {
					body.Strategy = &s
				} else {
					return usage("--strategy %q: use fast-forward, replay or replace", strategy)
				}
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var r client.MergeResult
			resp, err := remote.MergeBranch(c.Context(), args[0], args[1], body)
			if err := a.answer(resp, err, &r); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(r)
			}
			return a.printMerge(args[1], into, r)
		},
	}
	c.Flags().StringVar(&into, "into", "main", "the branch that gets what this one has")
	c.Flags().StringVar(&strategy, "strategy", "", "fast-forward, replay or replace")
	dryRunFlag(c, &dryRun)
	return c
}

func (a *app) printMerge(branch, into string, r client.MergeResult) error {
	if r.ConflictCount > 0 {
		fmt.Fprintf(a.out, "%s conflicts; nothing would be merged\n", count(r.ConflictCount))
		for _, c := range r.Conflicts {
			var parts []string
			if c.Path != nil {
				parts = append(parts, *c.Path)
			}
			parts = append(parts, c.Reason)
			if c.Rows > 0 {
				parts[len(parts)-1] += " (" + count(c.Rows) + " rows)"
			}
			fmt.Fprintf(a.out, "  %s\n", strings.Join(parts, ": "))
			if c.Remedy != nil {
				fmt.Fprintf(a.out, "    %s\n", *c.Remedy)
			}
		}
		return nil
	}
	if r.UpToDate {
		_, err := fmt.Fprintf(a.out, "nothing to merge: %s has all that %s has\n", into, branch)
		return err
	}
	a.printChanges("schema of "+into, r.Schema)
	fmt.Fprintf(a.out, "%s %s into %s by %s: %s rows came in %s files, %s rows went", branch, done(r.DryRun, "merged"), into, r.Strategy,
		count(r.AddedRows), count(r.AddedFiles), count(r.RemovedRows))
	if r.LeftOutRows > 0 {
		fmt.Fprintf(a.out, ", %s rows were there already", count(r.LeftOutRows))
	}
	if r.Snapshot != nil {
		fmt.Fprintf(a.out, "; snapshot %s", *r.Snapshot)
	}
	_, err := fmt.Fprintln(a.out)
	return err
}
