package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/hotbuffer"
)

// GetBranchMetrics shows the figures of a branch.
func (a *API) GetBranchMetrics(c *gin.Context, stream, branch string) {
	name, ok := a.target(c, stream, branch)
	if !ok {
		return
	}
	f, err := a.b.Figures.Branch(c.Request.Context(), name, branch)
	if err != nil {
		a.fail(c, err)
		return
	}
	out := rest.BranchMetrics{View: int32(f.View), LagRows: f.Lag.Rows, LagSeconds: f.Lag.Age.Seconds(), Hot: hotMetrics(f.Hot)}
	out.Archive = rest.ArchiveMetrics{
		Flushes: f.Archive.Flushes, Failures: f.Archive.Failures, Rows: f.Archive.Rows, Bytes: f.Archive.Bytes,
		FlushSeconds: summary(f.Archive.FlushSeconds), LastError: optional(f.Archive.LastError),
	}
	if t := f.Archive.LastFlushAt; !t.IsZero() {
		out.Archive.LastFlushAt = &t
	}
	if l, ok := a.b.Figures.Log(); ok {
		out.Log = &rest.LogMetrics{Segments: l.Segments, Bytes: l.Bytes, LimitBytes: l.LimitBytes, Commits: l.Commits, SyncSeconds: summary(l.SyncSeconds)}
	}
	writeJSON(c, http.StatusOK, out)
}

func hotMetrics(s hotbuffer.Stats) rest.HotMetrics {
	return rest.HotMetrics{
		Requests: s.Requests, Duplicates: s.Duplicates, Rows: s.Rows, Bytes: s.Bytes, StoredBytes: s.StoredBytes, Batches: s.Batches,
		AverageBatchRows: ratio(float64(s.Rows), s.Batches), AverageBatchBytes: ratio(float64(s.Bytes), s.Batches),
		MaxBatchRows: s.MaxBatchRows, MaxBatchBytes: s.MaxBatchBytes, BatchLimitBytes: s.BatchLimitBytes,
		ReadRows: s.ReadRows, ReadBytes: s.ReadBytes, AppendSeconds: summary(s.AppendSeconds), LingerSeconds: summary(s.LingerSeconds),
	}
}

func ratio(sum float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// summary is a histogram in a few figures.
func summary(h hotbuffer.Histogram) rest.Histogram {
	var n uint64
	for _, c := range h.Counts {
		n += c
	}
	return rest.Histogram{
		Count: int64(n), Sum: h.Sum, Mean: ratio(h.Sum, int64(n)),
		P50: quantile(h, n, 0.5), P90: quantile(h, n, 0.9), P99: quantile(h, n, 0.99),
	}
}

// quantile interpolates within the bucket that holds the q-th of n
// observations. Beyond the last bound it is that bound, as Prometheus has it.
func quantile(h hotbuffer.Histogram, n uint64, q float64) float64 {
	if n == 0 || len(h.Bounds) == 0 {
		return 0
	}
	rank, below := q*float64(n), 0.0
	for i, c := range h.Counts {
		if i == len(h.Bounds) {
			break
		}
		if next := below + float64(c); next >= rank && c > 0 {
			from := 0.0
			if i > 0 {
				from = h.Bounds[i-1]
			}
			return from + (h.Bounds[i]-from)*(rank-below)/float64(c)
		}
		below += float64(c)
	}
	return h.Bounds[len(h.Bounds)-1]
}

// GetHealth says that the process answers.
func (a *API) GetHealth(c *gin.Context) {
	writeJSON(c, http.StatusOK, rest.Health{Status: rest.HealthStatusOk, Version: a.o.Version})
}

// GetReadiness says whether rows can be taken and given.
func (a *API) GetReadiness(c *gin.Context) {
	select {
	case <-a.draining:
		a.fail(c, errDraining)
		return
	default:
	}
	if err := a.b.Figures.Ready(c.Request.Context()); err != nil {
		p, _ := problemOf(err, "")
		if p.Status == http.StatusInternalServerError { // whatever it is: not ready
			err = &problemError{http.StatusServiceUnavailable, "UNAVAILABLE", "not ready: " + err.Error()}
		}
		a.fail(c, err)
		return
	}
	writeJSON(c, http.StatusOK, rest.Health{Status: rest.HealthStatusOk, Version: a.o.Version})
}

// GetContract serves openapi.yaml.
func (a *API) GetContract(c *gin.Context) {
	c.Data(http.StatusOK, "application/yaml", contract)
}

// GetMetrics serves Prometheus.
func (a *API) GetMetrics(c *gin.Context) { a.metrics.ServeHTTP(c.Writer, c.Request) }
