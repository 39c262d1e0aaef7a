package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) subscriberCommand() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "subscriber",
		Short: "List, show, reset and delete subscribers",
		Long: `A subscriber is a position in a stream that the server keeps under a name; runs of
thermocline subscribe --group share it.`,
	})
	c.AddCommand(a.subscriberList(), a.subscriberShow(), a.subscriberReset(), a.subscriberDelete())
	return c
}

func (a *app) subscriberList() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "list NAME",
		Short: "List the subscribers of a stream with lag and members",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			all := client.SubscriberList{Subscribers: []client.Subscriber{}}
			size := 1000
			params := client.ListSubscribersParams{Limit: &size}
			for {
				var page client.SubscriberList
				resp, err := remote.ListSubscribers(c.Context(), args[0], branch, &params)
				if err := a.answer(resp, err, &page); err != nil {
					return err
				}
				all.Subscribers = append(all.Subscribers, page.Subscribers...)
				if params.PageToken = page.NextPageToken; params.PageToken == nil {
					break
				}
			}
			rows := make([][]string, len(all.Subscribers))
			for i, s := range all.Subscribers {
				rows[i] = []string{s.ID, string(s.Consistency), count(s.LagRows), age(s.LagSeconds), fmt.Sprint(len(s.Members)), last(s.CommittedAt)}
			}
			return a.show(all, "SUBSCRIBER CONSISTENCY LAG-ROWS LAG-AGE MEMBERS COMMITTED", rows)
		},
	}
	branchFlag(c, &branch)
	return c
}

func age(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
}

func last(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return when(*t)
}

func (a *app) subscriberShow() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "show NAME G",
		Short: "Show a subscriber with its position and members",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var s client.Subscriber
			resp, err := remote.GetSubscriber(c.Context(), args[0], branch, args[1])
			if err := a.answer(resp, err, &s); err != nil {
				return err
			}
			return a.showSubscriber(s)
		},
	}
	branchFlag(c, &branch)
	return c
}

func (a *app) showSubscriber(s client.Subscriber) error {
	view := fmt.Sprint(s.View)
	if !s.CurrentView {
		view += ", which a reset of the stream has replaced: thermocline subscriber reset takes it to the new one"
	}
	rows := [][]string{
		{"subscriber", s.ID},
		{"consistency", string(s.Consistency)},
		{"view", view},
		{"lag", count(s.LagRows) + " rows, the oldest for " + age(s.LagSeconds)},
		{"checkpoint", fmt.Sprint(s.Checkpoint)},
		{"cursor", s.Cursor},
		{"offsets", offsetsText(s.Offsets)},
		{"session", fmt.Sprint(s.Session)},
		{"hold", s.Hold},
		{"created", when(s.CreatedAt)},
		{"committed", last(s.CommittedAt)},
	}
	if err := a.show(s, "", rows); err != nil || a.output == "json" || len(s.Members) == 0 {
		return err
	}
	fmt.Fprintln(a.out)
	members := make([][]string, len(s.Members))
	for i, m := range s.Members {
		members[i] = []string{m.Member, fmt.Sprint(m.Session), strings.Trim(fmt.Sprint(m.Partitions), "[]"), when(m.JoinedAt)}
	}
	return a.printTable("MEMBER SESSION PARTITIONS JOINED", members)
}

// offsetsText is "0:12 1:7", by partition.
func offsetsText(offsets map[string]int64) string {
	var parts []string
	for p, o := range offsets {
		parts = append(parts, fmt.Sprintf("%4s:%d", p, o)) // so that they sort by number
	}
	slices.Sort(parts)
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return strings.Join(parts, " ")
}

func (a *app) subscriberReset() *cobra.Command {
	var branch, from string
	c := &cobra.Command{
		Use:   "reset NAME G --from WHERE",
		Short: "Move a subscriber to another position; its reads end",
		Example: `  thermocline subscriber reset quakes alerts --from earliest
  thermocline subscriber reset quakes alerts --from 2026-03-01`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if from == "" {
				return usage("subscriber reset needs --from: earliest, latest, a cursor, or a time like 2026-03-01T12:00:00Z")
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var s client.Subscriber
			resp, err := remote.ResetSubscriber(c.Context(), args[0], branch, args[1], client.ResetSubscriber{Start: startOf(from)})
			if err := a.answer(resp, err, &s); err != nil {
				return err
			}
			return a.showSubscriber(s)
		},
	}
	branchFlag(c, &branch)
	c.Flags().StringVar(&from, "from", "", "earliest, latest, a cursor, or a time like 2026-03-01T12:00:00Z")
	return c
}

func (a *app) subscriberDelete() *cobra.Command {
	var branch string
	var yes bool
	c := &cobra.Command{
		Use:   "delete NAME G",
		Short: "Delete a subscriber; its position is forgotten",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("Delete subscriber %s of %s with its position? There is no way back.", args[1], args[0])); err != nil {
				return err
			}
			return a.deleteSubscriber(c.Context(), args[0], branch, args[1])
		},
	}
	branchFlag(c, &branch)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) deleteSubscriber(ctx context.Context, stream, branch, name string) error {
	remote, err := a.connect()
	if err != nil {
		return err
	}
	resp, err := remote.DeleteSubscriber(ctx, stream, branch, name)
	if err := a.answer(resp, err, nil); err != nil {
		return err
	}
	return a.deleted(name, "subscriber %s of %s", name, stream)
}
