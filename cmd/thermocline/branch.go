package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) branchCommand() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "branch",
		Short: "Create, list, show, compare, merge, protect and delete branches",
		Long: `A branch begins with the rows of another branch of the same stream, or dataset, without
copying any, and goes on by itself: rows, schema, settings, subscribers and history of one
side are not seen on the other.`,
	})
	c.AddCommand(a.branchCreate(), a.branchList(), a.branchShow(), a.branchCompare(), a.branchMerge(), a.branchProtect(), a.branchDelete())
	return c
}

// policyFlags are the flags that say what is kept of a branch.
type policyFlags struct {
	maxAge, expireAfter time.Duration
	minSnapshots        int
}

func (f *policyFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.DurationVar(&f.maxAge, "max-snapshot-age", 0, "how long a snapshot is kept after a newer one took its place; 0 is the server's default")
	s.IntVar(&f.minSnapshots, "min-snapshots", 0, "how many of the newest snapshots stay whatever their age; 0 is the default")
	s.DurationVar(&f.expireAfter, "expire-after", 0, "delete the branch this long after its last change; 0 is never")
}

// patch holds the parts whose flags were given; nil if none was.
func (f *policyFlags) patch(c *cobra.Command) *client.BranchPolicyPatch {
	var p client.BranchPolicyPatch
	any := false
	given := func(name string) bool {
		is := c.Flags().Changed(name)
		any = any || is
		return is
	}
	if given("max-snapshot-age") {
		s := f.maxAge.String()
		p.MaxSnapshotAge = &s
	}
	if given("min-snapshots") {
		p.MinSnapshots = &f.minSnapshots
	}
	if given("expire-after") {
		s := f.expireAfter.String()
		p.ExpireAfter = &s
	}
	if !any {
		return nil
	}
	return &p
}

func (a *app) branchCreate() *cobra.Command {
	var from, snapshot, tag, at, cursor string
	var settings settingsFlags
	var policy policyFlags
	c := &cobra.Command{
		Use:   "create NAME BRANCH",
		Short: "Make a branch that begins with the rows of another one",
		Long: `Make a branch from the present state of another one, with every row that was acknowledged
before, or from one of its snapshots, by id, tag or time, or with the rows below a cursor.
Settings are those of the source, except for those whose flags are given.`,
		Example: `  thermocline branch create quakes experiment
  thermocline branch create quakes replay --tag v1.0 --expire-after 72h`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			places := 0
			for _, place := range []string{snapshot, tag, at, cursor} {
				if place != "" {
					places++
				}
			}
			if places > 1 {
				return usage("give one of --snapshot, --tag, --time and --cursor, not %d", places)
			}
			body := client.CreateBranch{Name: args[1], Settings: settings.patch(c), Policy: policy.patch(c)}
			body.From = &client.BranchSource{Branch: given(from), Snapshot: given(snapshot), Tag: given(tag), Cursor: given(cursor)}
			if at != "" {
				t, err := parseTime(at)
				if err != nil {
					return err
				}
				body.From.Time = &t
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var b client.BranchDetail
			resp, err := remote.CreateBranch(c.Context(), args[0], body)
			if err := a.answer(resp, err, &b); err != nil {
				return err
			}
			return a.showBranch(b)
		},
	}
	s := c.Flags()
	s.StringVar(&from, "from", "main", "branch to begin with")
	s.StringVar(&snapshot, "snapshot", "", "begin at this snapshot of it")
	s.StringVar(&tag, "tag", "", "begin at this tag of it")
	s.StringVar(&at, "time", "", "begin at what was its newest snapshot then, like 2026-03-01T12:00:00Z")
	s.StringVar(&cursor, "cursor", "", "begin with the rows below this cursor")
	settings.add(c)
	policy.add(c)
	return c
}

// parseTime reads a time or a date.
func parseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("%q is no time; use one like 2026-03-01T12:00:00Z or 2026-03-01", text)
}

func (a *app) branchList() *cobra.Command {
	return &cobra.Command{
		Use:   "list NAME",
		Short: "List the branches of a stream or dataset",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			all := client.BranchList{Branches: []client.BranchSummary{}}
			size := 1000
			params := client.ListBranchesParams{Limit: &size}
			for {
				var page client.BranchList
				resp, err := remote.ListBranches(c.Context(), args[0], &params)
				if err := a.answer(resp, err, &page); err != nil {
					return err
				}
				all.Branches = append(all.Branches, page.Branches...)
				if params.PageToken = page.NextPageToken; params.PageToken == nil {
					break
				}
			}
			rows := make([][]string, len(all.Branches))
			for i, b := range all.Branches {
				rows[i] = []string{b.Name, fmt.Sprint(b.View), originText(b.Origin), when(b.CreatedAt), when(b.ChangedAt), policyText(b.Policy)}
			}
			return a.show(all, "BRANCH VIEW FROM CREATED CHANGED POLICY", rows)
		},
	}
}

func originText(o *client.BranchOrigin) string {
	switch {
	case o == nil:
		return "-"
	case o.Snapshot == nil:
		return o.Branch
	}
	return o.Branch + " " + *o.Snapshot
}

// policyText is a policy in one cell.
func policyText(p client.BranchPolicy) string {
	var parts []string
	if p.Protected {
		parts = append(parts, "protected")
	}
	if p.MaxSnapshotAge != nil {
		parts = append(parts, "snapshots "+*p.MaxSnapshotAge)
	}
	if p.MinSnapshots != nil {
		parts = append(parts, fmt.Sprintf("at least %d", *p.MinSnapshots))
	}
	if p.ExpireAfter != nil {
		parts = append(parts, "expires after "+*p.ExpireAfter)
	}
	if parts == nil {
		return "-"
	}
	return strings.Join(parts, ", ")
}

func (a *app) branchShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME BRANCH",
		Short: "Show a branch: origin, policy, settings and fields",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := a.getBranch(c.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.showBranch(b)
		},
	}
}

func (a *app) getBranch(ctx context.Context, stream, branch string) (b client.BranchDetail, err error) {
	remote, err := a.connect()
	if err != nil {
		return b, err
	}
	resp, err := remote.GetBranch(ctx, stream, branch)
	return b, a.answer(resp, err, &b)
}

func (a *app) showBranch(b client.BranchDetail) error {
	rows := [][]string{
		{"branch", b.Name}, {"from", originText(b.Origin)}, {"created", when(b.CreatedAt)}, {"changed", when(b.ChangedAt)},
		{"policy", policyText(b.Policy)}, {"table", b.Table}, {"view", fmt.Sprint(b.View)},
	}
	if b.Schema != nil {
		rows = append(rows, []string{"schema", fmt.Sprintf("id %d, version %d", b.Schema.ID, b.Schema.Version)})
	}
	if b.Settings != nil {
		rows = append(rows, settingsRows(*b.Settings)...)
	}
	if err := a.show(b, "", rows); err != nil || a.output == "json" || b.Schema == nil {
		return err
	}
	fmt.Fprintln(a.out)
	return a.printFields(*b.Schema)
}

func (a *app) branchProtect() *cobra.Command {
	var off bool
	var policy policyFlags
	c := &cobra.Command{
		Use:   "protect NAME BRANCH",
		Short: "Protect a branch from deletion and reset, or say what is kept of it",
		Long: `Protect a branch: it cannot be deleted, alone or with its stream, nor reset. With --off the
protection ends. With flags for what is kept, only that is changed.`,
		Example: `  thermocline branch protect quakes release
  thermocline branch protect quakes release --max-snapshot-age 720h --min-snapshots 10`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			body := client.BranchPolicyPatch{}
			kept := policy.patch(c)
			if kept != nil {
				body = *kept
			}
			if kept == nil || c.Flags().Changed("off") {
				on := !off
				body.Protected = &on
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var b client.BranchDetail
			resp, err := remote.UpdateBranchPolicy(c.Context(), args[0], args[1], body)
			if err := a.answer(resp, err, &b); err != nil {
				return err
			}
			return a.show(b, "", [][]string{{"branch", b.Name}, {"policy", policyText(b.Policy)}})
		},
	}
	c.Flags().BoolVar(&off, "off", false, "end the protection")
	policy.add(c)
	return c
}

func (a *app) branchDelete() *cobra.Command {
	var yes, subscribers bool
	c := &cobra.Command{
		Use:   "delete NAME BRANCH",
		Short: "Delete a branch with its rows; other branches keep what they share with it",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("Delete branch %s of %s with its rows? There is no way back.", args[1], args[0])); err != nil {
				return err
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			resp, err := remote.DeleteBranch(c.Context(), args[0], args[1], &client.DeleteBranchParams{DeleteSubscribers: &subscribers})
			if err := a.answer(resp, err, nil); err != nil {
				return err
			}
			return a.deleted(args[1], "branch %s of %s", args[1], args[0])
		},
	}
	c.Flags().BoolVar(&subscribers, "subscribers", false, "delete its subscribers with it")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// deleted says that something is gone.
func (a *app) deleted(name, format string, args ...any) error {
	if a.output == "json" {
		return a.printJSON(map[string]string{"deleted": name})
	}
	_, err := fmt.Fprintf(a.out, "deleted "+format+"\n", args...)
	return err
}
