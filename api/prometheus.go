package api

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/thermocline/thermocline/hotbuffer"
)

// httpMetrics count requests. Labels come from the contract's routes and from
// the few methods and statuses, so that clients cannot make up series.
type httpMetrics struct {
	inFlight prometheus.Gauge
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newHTTPMetrics() httpMetrics {
	return httpMetrics{
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "thermocline_http_requests_in_flight", Help: "Requests under way, open tails included."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "thermocline_http_requests_total", Help: "Requests answered."}, []string{"method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "thermocline_http_request_seconds", Help: "Time from a request's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}, []string{"method", "route"}),
	}
}

func (m httpMetrics) seen(method, route string, status int, took time.Duration) {
	if route == "none" {
		method = "any" // what nobody asked for has no series of its own
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
}

func (a *API) metricsHandler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		a.http.inFlight, a.http.requests, a.http.seconds)
	h := func(w http.ResponseWriter, q *http.Request) {
		// A registry of its own for each scrape, so that the collector works
		// under the request's context.
		once := prometheus.NewRegistry()
		once.MustRegister(&figuresCollector{ctx: q.Context(), a: a})
		promhttp.HandlerFor(prometheus.Gatherers{r, once}, promhttp.HandlerOpts{
			ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelError), ErrorHandling: promhttp.HTTPErrorOnError,
		}).ServeHTTP(w, q)
	}
	return http.HandlerFunc(h)
}

// figuresCollector reads the figures of all branches for one scrape.
type figuresCollector struct {
	ctx context.Context //nolint:containedctx // lives as long as the scrape; Collect takes none
	a   *API
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("thermocline_"+name, help, labels, nil)
}

func perBranch(name, help string) *prometheus.Desc { return desc(name, help, "stream", "branch") }

// branchFigure is a counter or gauge of a branch.
type branchFigure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*BranchFigures) float64
}

var branchFigures = []branchFigure{
	{perBranch("publish_requests_total", "Append requests."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.Requests) }},
	{perBranch("publish_duplicates_total", "Requests that were appended before."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.Duplicates) }},
	{perBranch("rows_total", "Rows appended."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.Rows) }},
	{perBranch("bytes_total", "Bytes of keys and values appended."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.Bytes) }},
	{perBranch("stored_bytes_total", "Bytes of encoded batches appended."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.StoredBytes) }},
	{perBranch("batches_total", "Batches appended."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.Batches) }},
	{perBranch("batch_average_bytes", "Average size of a batch before compression."), prometheus.GaugeValue, func(f *BranchFigures) float64 { return ratio(float64(f.Hot.Bytes), f.Hot.Batches) }},
	{perBranch("batch_max_bytes", "Size of the largest batch before compression."), prometheus.GaugeValue, func(f *BranchFigures) float64 { return float64(f.Hot.MaxBatchBytes) }},
	{perBranch("batch_max_rows", "Rows of the largest batch."), prometheus.GaugeValue, func(f *BranchFigures) float64 { return float64(f.Hot.MaxBatchRows) }},
	{perBranch("batch_limit_bytes", "What a batch may grow to."), prometheus.GaugeValue, func(f *BranchFigures) float64 { return float64(f.Hot.BatchLimitBytes) }},
	{perBranch("hot_read_rows_total", "Rows read from the hot buffer."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.ReadRows) }},
	{perBranch("hot_read_bytes_total", "Bytes read from the hot buffer."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Hot.ReadBytes) }},
	{perBranch("archive_flushes_total", "Archive commits."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Archive.Flushes) }},
	{perBranch("archive_failures_total", "Archive attempts that failed."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Archive.Failures) }},
	{perBranch("archive_rows_total", "Rows archived."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Archive.Rows) }},
	{perBranch("archive_bytes_total", "Bytes of data files written."), prometheus.CounterValue, func(f *BranchFigures) float64 { return float64(f.Archive.Bytes) }},
	{perBranch("archive_lag_rows", "Durable rows that are not archived."), prometheus.GaugeValue, func(f *BranchFigures) float64 { return float64(f.Lag.Rows) }},
	{perBranch("archive_lag_seconds", "Age of the oldest row that is not archived."), prometheus.GaugeValue, func(f *BranchFigures) float64 { return f.Lag.Age.Seconds() }},
}

// maintenanceFigures are counters over all datasets.
var maintenanceFigures = []struct {
	desc  *prometheus.Desc
	value func(*MaintenanceFigures) int64
}{
	{desc("maintenance_compactions_total", "Compactions of a dataset that ended well, those that found nothing to do included."), func(f *MaintenanceFigures) int64 { return f.Compactions }},
	{desc("maintenance_expiries_total", "Expiries of a dataset's snapshots that ended well."), func(f *MaintenanceFigures) int64 { return f.Expiries }},
	{desc("maintenance_collections_total", "Looks for a dataset's unreached files that ended well."), func(f *MaintenanceFigures) int64 { return f.Collections }},
	{desc("maintenance_failures_total", "Compactions, expiries and collections that failed."), func(f *MaintenanceFigures) int64 { return f.Failures }},
	{desc("maintenance_replaced_files_total", "Small files that compaction rewrote."), func(f *MaintenanceFigures) int64 { return f.ReplacedFiles }},
	{desc("maintenance_replaced_bytes_total", "Bytes of the files that compaction rewrote."), func(f *MaintenanceFigures) int64 { return f.ReplacedBytes }},
	{desc("maintenance_written_files_total", "Files that compaction wrote."), func(f *MaintenanceFigures) int64 { return f.WrittenFiles }},
	{desc("maintenance_written_bytes_total", "Bytes of the files that compaction wrote."), func(f *MaintenanceFigures) int64 { return f.WrittenBytes }},
	{desc("maintenance_expired_snapshots_total", "Snapshots that were dropped."), func(f *MaintenanceFigures) int64 { return f.ExpiredSnapshots }},
	{desc("maintenance_expired_branches_total", "Branches that were deleted because nothing had changed them for the time of their policy."), func(f *MaintenanceFigures) int64 { return f.ExpiredBranches }},
	{desc("maintenance_deleted_files_total", "Unreached files that were deleted."), func(f *MaintenanceFigures) int64 { return f.DeletedFiles }},
	{desc("maintenance_deleted_bytes_total", "Bytes of the unreached files that were deleted."), func(f *MaintenanceFigures) int64 { return f.DeletedBytes }},
}

var (
	appendSeconds = perBranch("append_seconds", "Time from an append's call to its durable return.")
	lingerSeconds = perBranch("linger_seconds", "Time that rows waited for company (HIGH_THROUGHPUT).")
	flushSeconds  = perBranch("archive_flush_seconds", "Time of an archive commit.")
	syncSeconds   = desc("log_sync_seconds", "Time of a sync of the hot log.")
	logCommits    = desc("log_commits_total", "Commits of the hot log.")
	logSegments   = desc("log_segments", "Segments of the hot log.")
	logBytes      = desc("log_bytes", "Bytes of the hot log's segments.")
	lagRows       = desc("subscriber_lag_rows", "Durable rows that the subscriber has not committed.", "stream", "branch", "subscriber")
	lagSeconds    = desc("subscriber_lag_seconds", "Age of the oldest row that the subscriber has not committed.", "stream", "branch", "subscriber")
	logLimit      = desc("log_limit_bytes", "What the hot log may grow to; 0 is no limit.")
)

// Describe sends nothing: which series there are depends on the streams.
func (f *figuresCollector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the figures. A scrape that cannot is an error, not a gap.
func (f *figuresCollector) Collect(out chan<- prometheus.Metric) {
	all, err := f.a.b.Figures.Branches(f.ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(perBranch("rows_total", "Rows appended."), err)
		return
	}
	for i := range all {
		b := &all[i]
		for _, m := range branchFigures {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(b), b.Stream, b.Branch)
		}
		histogram(out, appendSeconds, b.Hot.AppendSeconds, b.Stream, b.Branch)
		histogram(out, lingerSeconds, b.Hot.LingerSeconds, b.Stream, b.Branch)
		histogram(out, flushSeconds, b.Archive.FlushSeconds, b.Stream, b.Branch)
		for _, s := range b.Subscribers {
			out <- prometheus.MustNewConstMetric(lagRows, prometheus.GaugeValue, float64(s.Lag.Rows), b.Stream, b.Branch, s.Name)
			out <- prometheus.MustNewConstMetric(lagSeconds, prometheus.GaugeValue, s.Lag.Age.Seconds(), b.Stream, b.Branch, s.Name)
		}
	}
	m := f.a.b.Figures.Maintenance()
	for _, c := range maintenanceFigures {
		out <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(c.value(&m)))
	}
	l, ok := f.a.b.Figures.Log()
	if !ok {
		return
	}
	histogram(out, syncSeconds, l.SyncSeconds)
	out <- prometheus.MustNewConstMetric(logCommits, prometheus.CounterValue, float64(l.Commits))
	out <- prometheus.MustNewConstMetric(logSegments, prometheus.GaugeValue, float64(l.Segments))
	out <- prometheus.MustNewConstMetric(logBytes, prometheus.GaugeValue, float64(l.Bytes))
	out <- prometheus.MustNewConstMetric(logLimit, prometheus.GaugeValue, float64(l.LimitBytes))
}

// histogram sends h in Prometheus' cumulative form.
func histogram(out chan<- prometheus.Metric, d *prometheus.Desc, h hotbuffer.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	var n uint64
	for i, c := range h.Counts {
		if n += c; i < len(h.Bounds) {
			buckets[h.Bounds[i]] = n
		}
	}
	out <- prometheus.MustNewConstHistogram(d, n, h.Sum, buckets, labels...)
}
