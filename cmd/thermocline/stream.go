package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api/client"
)

func (a *app) streamCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "stream", Short: "Create, list, show, change, reset and delete streams"})
	c.AddCommand(a.streamCreate(), a.streamList(), a.streamShow(), a.streamSettings(), a.streamSchema(), a.streamReset(), a.streamDelete())
	return c
}

// branchFlag adds --branch.
func branchFlag(c *cobra.Command, branch *string) {
	c.Flags().StringVar(branch, "branch", "main", "branch of the stream")
}

// settingsFlags are the flags that set settings.
type settingsFlags struct {
	streamType, format, consistency string
	compressed                      bool
	partitions                      int32
	keys                            []string
	partitionBy, sortBy, bloom      string
	archiveInterval, hotRetention   time.Duration
}

func (f *settingsFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.streamType, "type", "LOW_LATENCY", "LOW_LATENCY or HIGH_THROUGHPUT")
	s.BoolVar(&f.compressed, "compressed", false, "keep hot rows compressed")
	s.Int32Var(&f.partitions, "partitions", 1, "shards for throughput, about 5 MB/s each")
	s.StringSliceVar(&f.keys, "key", nil, "field whose equal values keep their order; several with commas")
	s.DurationVar(&f.archiveInterval, "archive-interval", 2*time.Minute, "how often rows move into the dataset")
	s.DurationVar(&f.hotRetention, "hot-retention", 0, "how long archived rows stay hot at least")
	s.StringVar(&f.format, "dataset-format", "PARQUET", "PARQUET or AVRO")
	s.StringVar(&f.partitionBy, "partition-by", "", `what data files are separated by, with commas: "day(_timestamp), bucket[16](user_id)"; "" for nothing`)
	s.StringVar(&f.sortBy, "sort-by", "", `what rows are sorted by in a data file, with commas: "user_id, ts desc"; "" for nothing`)
	s.StringVar(&f.bloom, "bloom", "", `columns with Bloom filters, with commas; "" for none`)
	s.StringVar(&f.consistency, "consistency", "AT_LEAST_ONCE", "of reads that do not ask: AT_LEAST_ONCE or EXACTLY_ONCE")
}

// patch holds the settings whose flags were given; nil if none was.
func (f *settingsFlags) patch(c *cobra.Command) *client.SettingsPatch {
	var p client.SettingsPatch
	any := false
	given := func(name string) bool {
		is := c.Flags().Changed(name)
		any = any || is
		return is
	}
	if given("type") {
		p.Type = (*client.StreamType)(upper(f.streamType))
	}
	if given("compressed") {
		p.Compressed = &f.compressed
	}
	if given("partitions") {
		p.Partitions = &f.partitions
	}
	if given("key") {
		p.KeyFields = &f.keys
		if f.keys == nil {
			p.KeyFields = &[]string{}
		}
	}
	if given("archive-interval") {
		s := f.archiveInterval.String()
		p.ArchiveInterval = &s
	}
	if given("hot-retention") {
		s := f.hotRetention.String()
		p.HotRetention = &s
	}
	if given("dataset-format") {
		p.DatasetFormat = (*client.DatasetFormat)(upper(f.format))
	}
	if given("consistency") {
		p.Consistency = (*client.Consistency)(upper(f.consistency))
	}
	if given("partition-by") {
		p.Partitioning = listOf(f.partitionBy)
	}
	if given("sort-by") {
		p.SortOrder = listOf(f.sortBy)
	}
	if given("bloom") {
		p.BloomFilters = listOf(f.bloom)
	}
	if !any {
		return nil
	}
	return &p
}

// listOf is the list in a text with commas, as JSON.
func listOf(text string) json.RawMessage {
	entries := []string{}
	for e := range strings.SplitSeq(text, ",") {
		if e = strings.TrimSpace(e); e != "" {
			entries = append(entries, e)
		}
	}
	b, _ := json.Marshal(entries) // texts always encode
	return b
}

func upper(s string) *string {
	s = strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
	return &s
}

func (a *app) streamCreate() *cobra.Command {
	var schemaFile, sample string
	var fromDataset bool
	var settings settingsFlags
	c := &cobra.Command{
		Use:   "create NAME (--schema FILE | --infer FILE | --from-dataset)",
		Short: "Create a stream from a schema, from the schema that a file of rows has, or on a dataset",
		Example: `  thermocline stream create seismic.quakes --schema quakes.json --key id --partitions 4
  thermocline stream create quakes --infer earthquakes.ndjson
  thermocline stream create seismic.stations --from-dataset`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if fromDataset && schemaFile == "" && sample == "" {
				return a.streamOn(c, args[0], settings.patch(c))
			}
			if fromDataset || (schemaFile == "") == (sample == "") {
				return usage("stream create needs one of --schema FILE, --infer FILE and --from-dataset")
			}
			body := client.CreateStream{Name: args[0], Settings: settings.patch(c)}
			if err := a.schemaOf(c, schemaFile, sample, &body); err != nil {
				return fmt.Errorf("create stream %s: %w", args[0], err)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var s client.Stream
			resp, err := remote.CreateStream(c.Context(), body)
			if err := a.answer(resp, err, &s); err != nil {
				return err
			}
			return a.showStream(s)
		},
	}
	c.Flags().StringVar(&schemaFile, "schema", "", "file with the schema: our JSON form or an Avro schema; - is standard input")
	c.Flags().StringVar(&sample, "infer", "", "file of rows to infer the schema from: NDJSON, CSV, Parquet or Avro")
	c.Flags().BoolVar(&fromDataset, "from-dataset", false, "start the stream on the dataset of that name: its rows stay, and come first")
	settings.add(c)
	return c
}

// streamOn starts a stream on a dataset.
func (a *app) streamOn(c *cobra.Command, name string, settings *client.SettingsPatch) error {
	remote, err := a.connect()
	if err != nil {
		return err
	}
	var s client.Stream
	resp, err := remote.StartStream(c.Context(), name, client.StartStream{Settings: settings})
	if err := a.answer(resp, err, &s); err != nil {
		return err
	}
	return a.showStream(s)
}

// schemaOf fills the schema, or the sample to infer it from, into body.
func (a *app) schemaOf(c *cobra.Command, schemaFile, sample string, body *client.CreateStream) error {
	if schemaFile != "" {
		form, err := a.readSchema(schemaFile)
		body.Schema = &form
		return err
	}
	in, err := a.openInput(sample, "")
	if err != nil {
		return err
	}
	defer in.Close()
	form, rows, err := inferFrom(c.Context(), in)
	if err != nil {
		return fmt.Errorf("infer a schema from %s: %w", sample, err)
	}
	if form != nil {
		body.Schema = &form
	} else {
		body.Sample = &rows
	}
	return nil
}

func (a *app) readSchema(name string) (client.Schema, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(a.in, maxAnswer))
	}
	return os.ReadFile(name)
}

func (a *app) showStream(s client.Stream) error {
	rows := [][]string{
		{"name", s.Name}, {"created", when(s.CreatedAt)}, {"view", fmt.Sprint(s.Main.View)},
		{"schema", fmt.Sprintf("id %d, version %d", s.Main.Schema.ID, s.Main.Schema.Version)},
	}
	if err := a.show(s, "", append(rows, settingsRows(s.Main.Settings)...)); err != nil || a.output == "json" {
		return err
	}
	fmt.Fprintln(a.out)
	return a.printFields(s.Main.Schema)
}

func settingsRows(s client.Settings) [][]string {
	list := func(of []string) string {
		if len(of) == 0 {
			return "none"
		}
		return strings.Join(of, ", ")
	}
	return [][]string{
		{"type", string(s.Type)}, {"compressed", fmt.Sprint(s.Compressed)}, {"partitions", fmt.Sprint(s.Partitions)},
		{"key fields", list(s.KeyFields)}, {"archive interval", s.ArchiveInterval}, {"hot retention", s.HotRetention},
		{"dataset format", string(s.DatasetFormat)}, {"consistency", string(s.Consistency)},
		{"partitioning", list(s.Partitioning)}, {"sort order", list(s.SortOrder)}, {"Bloom filters", list(s.BloomFilters)},
	}
}

func (a *app) streamList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all streams",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			all := client.StreamList{Streams: []client.StreamSummary{}}
			size, token := 1000, (*string)(nil)
			for {
				var page client.StreamList
				resp, err := remote.ListStreams(c.Context(), &client.ListStreamsParams{Limit: &size, PageToken: token})
				if err := a.answer(resp, err, &page); err != nil {
					return err
				}
				all.Streams = append(all.Streams, page.Streams...)
				if token = page.NextPageToken; token == nil {
					break
				}
			}
			rows := make([][]string, len(all.Streams))
			for i, s := range all.Streams {
				rows[i] = []string{s.Name, when(s.CreatedAt)}
			}
			return a.show(all, "NAME CREATED", rows)
		},
	}
}

func (a *app) streamShow() *cobra.Command {
	var branch string
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a stream: settings and fields",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("branch") {
				b, err := a.getBranch(c.Context(), args[0], branch)
				if err != nil {
					return err
				}
				return a.showBranch(b)
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var s client.Stream
			resp, err := remote.GetStream(c.Context(), args[0])
			if err := a.answer(resp, err, &s); err != nil {
				return err
			}
			return a.showStream(s)
		},
	}
	branchFlag(c, &branch)
	return c
}

func (a *app) streamSettings() *cobra.Command {
	var branch string
	var settings settingsFlags
	c := &cobra.Command{
		Use:     "settings NAME",
		Short:   "Show the settings of a stream, or change those whose flags are given",
		Example: "  thermocline stream settings quakes --type HIGH_THROUGHPUT --partitions 4",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var s client.Settings
			if patch := settings.patch(c); patch != nil {
				resp, err := remote.UpdateSettings(c.Context(), args[0], branch, *patch)
				if err := a.answer(resp, err, &s); err != nil {
					return err
				}
			} else {
				resp, err := remote.GetSettings(c.Context(), args[0], branch)
				if err := a.answer(resp, err, &s); err != nil {
					return err
				}
			}
			return a.show(s, "", settingsRows(s))
		},
	}
	branchFlag(c, &branch)
	settings.add(c)
	return c
}

func (a *app) streamReset() *cobra.Command {
	var branch, schemaFile string
	var yes bool
	var settings settingsFlags
	c := &cobra.Command{
		Use:   "reset NAME",
		Short: "Begin a new, empty view of a stream, with another schema or settings if given",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			body := client.ResetBranch{Settings: settings.patch(c)}
			if schemaFile != "" {
				form, err := a.readSchema(schemaFile)
				if err != nil {
					return fmt.Errorf("reset stream %s: %w", args[0], err)
				}
				body.Schema = &form
			}
			if err := a.confirm(yes, fmt.Sprintf("Reset %s, branch %s? Readers begin again with an empty view.", args[0], branch)); err != nil {
				return err
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			var b client.Branch
			resp, err := remote.ResetBranch(c.Context(), args[0], branch, body)
			if err := a.answer(resp, err, &b); err != nil {
				return err
			}
			return a.show(b, "", append([][]string{{"branch", b.Name}, {"view", fmt.Sprint(b.View)}}, settingsRows(b.Settings)...))
		},
	}
	branchFlag(c, &branch)
	c.Flags().StringVar(&schemaFile, "schema", "", "file with the new schema")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	settings.add(c)
	return c
}

func (a *app) streamDelete() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a stream with all its rows, hot and cold",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.confirm(yes, fmt.Sprintf("Delete %s with all its rows? There is no way back.", args[0])); err != nil {
				return err
			}
			remote, err := a.connect()
			if err != nil {
				return err
			}
			resp, err := remote.DeleteStream(c.Context(), args[0])
			if err := a.answer(resp, err, nil); err != nil {
				return err
			}
			return a.deleted(args[0], "%s", args[0])
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

var errNoRows = errors.New("the file holds no rows; give a file with some, or a schema with --schema")
