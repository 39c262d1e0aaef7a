package interop

import (
	"bytes"
	"testing"

	"github.com/apache/arrow/go/v17/arrow/ipc"
)

// half cold, half hot: what a read has to stitch.
func publishHalfAndHalf(t *testing.T, s *stream, rows []row) {
	t.Helper()
	half := len(rows) / 2
	s.publish(t, ndjson, toJSON(t, rows[:half]), half)
	s.archive(t)
	s.publish(t, ndjson, toJSON(t, rows[half:]), len(rows)-half)
}

func TestArrowReadsAnswers(t *testing.T) {
	t.Parallel()
	s := start(t).create(t, "arrow_reads", `{"partitions":3}`)
	rows := sampleRows(0, 2000)
	publishHalfAndHalf(t, s, rows)
	compareRows(t, rows, fromJSON(t, s.read(t, "ndjson"))) // the publisher's view first
	compareRows(t, rows, rowsOfStream(t, bytes.NewReader(s.read(t, "arrow"))))
	compareRows(t, rows, rowsOfParquet(t, s.read(t, "parquet")))
}

func TestArrowReadsDataFiles(t *testing.T) {
	t.Parallel()
	s := start(t).create(t, "parquet_files", `{"datasetFormat":"PARQUET","partitions":2}`)
	rows := sampleRows(0, 2000)
	publishHalfAndHalf(t, s, rows)
	s.archive(t)
	var got []row
	for _, content := range s.files(t, "PARQUET") {
		got = append(got, rowsOfParquet(t, content)...)
	}
	compareRows(t, rows, got)
}

func TestHambaReadsDataFiles(t *testing.T) {
	t.Parallel()
	s := start(t).create(t, "avro_files", `{"datasetFormat":"AVRO","partitions":2}`)
	rows := sampleRows(0, 2000)
	publishHalfAndHalf(t, s, rows)
	s.archive(t)
	var got []row
	for _, content := range s.files(t, "AVRO") {
		got = append(got, rowsOfContainer(t, bytes.NewReader(content))...)
	}
	compareRows(t, rows, got)
	compareRows(t, rows, fromJSON(t, s.read(t, "ndjson")))
}

// TestHambaPublishes sends containers in each codec, once with the schema that
// the server gives out and once with a plain one written by hand.
func TestHambaPublishes(t *testing.T) {
	t.Parallel()
	s := start(t).create(t, "hamba_publishes", `{}`)
	var all []row
	for _, schema := range []string{s.avroSchema(t), avsc} {
		for _, codec := range codecs {
			rows := sampleRows(int64(len(all)), 300)
			s.publish(t, avroFile, containerOf(t, schema, codec, rows), len(rows))
			all = append(all, rows...)
		}
	}
	compareRows(t, all, fromJSON(t, s.read(t, "ndjson")))
	s.archive(t)
	compareRows(t, all, fromJSON(t, s.read(t, "ndjson")))
}

func TestArrowPublishes(t *testing.T) {
	t.Parallel()
	s := start(t).create(t, "arrow_publishes", `{}`)
	var all []row
	for _, options := range [][]ipc.Option{nil, {ipc.WithZstd()}, {ipc.WithLZ4()}} {
		rows := sampleRows(int64(len(all)), 500)
		s.publish(t, arrowStream, streamOf(t, rows, options...), len(rows))
		all = append(all, rows...)
	}
	compareRows(t, all, fromJSON(t, s.read(t, "ndjson")))
	s.archive(t)
	compareRows(t, all, rowsOfStream(t, bytes.NewReader(s.read(t, "arrow"))))
}
