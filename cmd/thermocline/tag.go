package main

import (
	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) tagCommand() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "tag",
		Short: "Create, list and delete tags: names for snapshots of a branch",
		Long: `A tag is a name for a snapshot of a branch. The snapshot is kept as long as the tag is there;
engines see it as an Iceberg tag.`,
	})
	c.AddCommand(a.tagCreate(), a.tagList(), a.tagDelete())
	return c
}

func tagRow(t client.Tag) []string { return []string{t.Name, t.Snapshot, when(t.CommittedAt)} }

const tagHeading = "TAG SNAPSHOT COMMITTED"

func (a *app) tagCreate() *cobra.Command {
	var branch, snapshot string
	c := &cobra.Command{
		Use:   "create NAME TAG",
		Short: "Name a snapshot of a branch, or the branch as it is now",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var t client.Tag
			resp, err := remote.CreateTag(c.Context(), args[0], branch, client.CreateTag{Name: args[1], Snapshot: given(snapshot)})
			if err := a.answer(resp, err, &t); err != nil {
				return err
			}
			return a.show(t, tagHeading, [][]string{tagRow(t)})
		},
	}
	branchFlag(c, &branch)
	c.Flags().StringVar(&snapshot, "snapshot", "", "snapshot to name (default: the branch as it is now, with every acknowledged row)")
	return c
}

func (a *app) tagList() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "list NAME",
		Short: "List the tags of a branch",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var all client.TagList
			resp, err := remote.ListTags(c.Context(), args[0], branch)
			if err := a.answer(resp, err, &all); err != nil {
				return err
			}
			rows := make([][]string, len(all.Tags))
			for i, t := range all.Tags {
				rows[i] = tagRow(t)
			}
			return a.show(all, tagHeading, rows)
		},
	}
	branchFlag(c, &branch)
	return c
}

func (a *app) tagDelete() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "delete NAME TAG",
		Short: "Delete a tag; its snapshot may expire from then on",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			resp, err := remote.DeleteTag(c.Context(), args[0], branch, args[1])
			if err := a.answer(resp, err, nil); err != nil {
				return err
			}
			return a.deleted(args[1], "tag %s of %s", args[1], args[0])
		},
	}
	branchFlag(c, &branch)
	return c
}
