package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) archiveCommand() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "archive NAME",
		Short: "Move the rows of a stream from the hot buffer into its dataset now",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var r client.ArchiveResult
			resp, err := remote.ArchiveNow(c.Context(), args[0], branch)
			if err := a.answer(resp, err, &r); err != nil {
				return err
			}
			if a.output == "json" {
				return a.printJSON(r)
			}
			_, err = fmt.Fprintf(a.out, "archived %s rows in %d files, %s bytes, %.1f s; snapshot %s of %s\n",
				count(r.Rows), r.Files, count(r.Bytes), r.Seconds, text(r.SnapshotID), r.MetadataLocation)
			return err
		},
	}
	branchFlag(c, &branch)
	return c
}

func (a *app) offsetsCommand() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "offsets NAME",
		Short: "Show how far each partition is stored and archived",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var o client.Offsets
			resp, err := remote.GetOffsets(c.Context(), args[0], branch)
			if err := a.answer(resp, err, &o); err != nil {
				return err
			}
			rows := make([][]string, len(o.Partitions))
			for i, p := range o.Partitions {
				rows[i] = []string{fmt.Sprint(p.Partition), fmt.Sprint(p.Start), fmt.Sprint(p.Archived), fmt.Sprint(p.End)}
			}
			if err := a.show(o, "PARTITION HOT-START ARCHIVED DURABLE-END", rows); err != nil || a.output == "json" {
				return err
			}
			_, err = fmt.Fprintf(a.out, "view %d; %s rows wait for the archive, the oldest for %s\n", o.View, count(o.LagRows), time.Duration(o.LagSeconds*float64(time.Second)).Round(100*time.Millisecond))
			return err
		},
	}
	branchFlag(c, &branch)
	return c
}
