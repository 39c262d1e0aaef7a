package api_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/thermocline/thermocline/api"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := serve(t, shared, api.Options{})
	stream := s.stream(nil)
	s.publish(stream, 0, 3)
	s.do("POST", branchPath(stream, "subscribers"), map[string]any{"id": "g"}).want(t, 201, nil)
	var m struct {
		Hot struct {
			Rows, Requests, Batches, BatchLimitBytes int64
			AverageBatchRows                         float64
			AppendSeconds                            struct {
				Count    int64
				P50, P99 float64
			}
		}
		Log     struct{ SyncSeconds struct{ Count int64 } }
		LagRows int64
	}
	s.do("GET", branchPath(stream, "metrics"), nil).want(t, 200, &m)
	if m.Hot.Rows != 3 || m.Hot.Requests != 1 || m.Hot.AverageBatchRows != 3 || m.Hot.AppendSeconds.Count != 1 || m.Hot.AppendSeconds.P50 <= 0 || m.Log.SyncSeconds.Count == 0 || m.LagRows != 3 {
		t.Errorf("figures: %+v", m)
	}
	s.do("GET", branchPath("nosuch", "metrics"), nil).wantProblem(t, 404, "NOT_FOUND", "nosuch")

	s.do("GET", "/no/such/path", nil).wantProblem(t, 404, "ROUTE_NOT_FOUND", "")
	page := string(s.do("GET", "/metrics", nil).body)
	for _, want := range []string{
		`thermocline_rows_total{branch="main",stream="default.` + stream + `"} 3`,
		`thermocline_append_seconds_bucket{branch="main",stream="default.` + stream + `",le="+Inf"} 1`,
		`thermocline_archive_lag_rows{branch="main",stream="default.` + stream + `"} 3`,
		`thermocline_subscriber_lag_rows{branch="main",stream="default.` + stream + `",subscriber="g"} 3`,
		`thermocline_subscriber_lag_seconds{branch="main",stream="default.` + stream + `",subscriber="g"} `,
		`thermocline_log_sync_seconds_count`,
		`thermocline_maintenance_compactions_total`,
		`thermocline_maintenance_deleted_bytes_total`,
		`thermocline_http_requests_total{method="POST",route="/v1/streams/:stream/branches/:branch/rows",status="200"} 1`,
		`thermocline_http_requests_total{method="any",route="none",status="404"} 1`,
		`go_goroutines`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(page, "/no/such/path") {
		t.Error("a path that a client made up is a series")
	}
}

type unready struct{ api.Figures }

func (unready) Ready(context.Context) error { return errors.New("the log is poisoned") }

func TestHealth(t *testing.T) {
	t.Parallel()
	b := shared
	s := serve(t, b, api.Options{})
	s.do("GET", "/healthz", nil).want(t, 200, nil)
	s.do("GET", "/readyz", nil).want(t, 200, nil)
	s.api.Drain()
	s.do("GET", "/healthz", nil).want(t, 200, nil)
	s.do("GET", "/readyz", nil).wantProblem(t, 503, "UNAVAILABLE", "shutting down")
	b.Figures = unready{b.Figures}
	s = serve(t, b, api.Options{})
	s.do("GET", "/readyz", nil).wantProblem(t, 503, "UNAVAILABLE", "poisoned")
}
