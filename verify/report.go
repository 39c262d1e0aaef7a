package verify

import (
	"fmt"
	"time"

	"github.com/thermocline/thermocline/record"
)

// Event is what a check tells while it runs: one of its members is set.
type Event struct {
	Stream string `json:"stream"` // in full; "" for what belongs to none
	Branch string `json:"branch"`

	Progress *Progress `json:"progress,omitempty"`
	Finding  *Finding  `json:"finding,omitempty"`
	// Summary ends a branch.
	Summary *Summary `json:"summary,omitempty"`
}

// Progress is how far the check of a branch is.
type Progress struct {
	// Phase is "cold", "hot" or "storage".
	Phase      string `json:"phase"`
	Files      int64  `json:"files"` // data files read
	TotalFiles int64  `json:"totalFiles"`
	ColdRows   int64  `json:"coldRows"`
	HotRows    int64  `json:"hotRows"`
}

// Summary is the outcome for a branch.
type Summary struct {
	View       record.ViewNumber `json:"view"`
	SnapshotID int64             `json:"snapshotId,string"` // 0: the dataset has none
	Files      int64             `json:"files"`             // data files read
	ColdRows   int64             `json:"coldRows"`
	ColdBytes  int64             `json:"coldBytes"`
	HotRows    int64             `json:"hotRows"` // all that are in the hot buffer
	// Compared rows are in both halves, and were held against each other.
	Compared int64 `json:"comparedRows"`
	// Foreign rows came from other engines, without offsets; they are only
	// counted.
	Foreign     int64 `json:"foreignRows"`
	Checkpoints int64 `json:"checkpoints"`
	Subscribers int64 `json:"subscribers"`
	Objects     int64 `json:"objects"` // files in the table's folder
	// Producers and Sequences are counted where their columns were named.
	Producers int64 `json:"producers"`
	Sequences int64 `json:"sequences"`
	// Restarts is how often the check began again, because a reset or an
	// expiry took away what it was reading.
	Restarts int64 `json:"restarts"`

	Failures int64          `json:"failures"`
	Notices  int64          `json:"notices"`
	ByCode   map[Code]int64 `json:"byCode,omitempty"`
	Seconds  float64        `json:"seconds"`
}

// maxFindings of a code are told one by one; the others only count. No damage,
// however great, makes the report larger.
const maxFindings = 1000

// progressEvery is how often progress is told.
const progressEvery = time.Second

// report gathers the findings of one branch and passes them on.
type report struct {
	stream, branch string
	emit           func(Event) error
	err            error // of emit; the check ends at the next look

	sum  Summary
	seen map[findingKey]bool

	progress Progress
	told     time.Time

	// runs are findings on rows that may grow by the next row of their partition.
	runs []Finding
}

// maxRuns is how many findings may be growing at a time.
const maxRuns = 64

func newReport(stream, branch string, emit func(Event) error) *report {
	return &report{
		stream: stream, branch: branch, emit: emit, seen: map[findingKey]bool{}, told: time.Now(),
		sum: Summary{ByCode: map[Code]int64{}},
	}
}

func (r *report) send(e Event) {
	if r.err == nil {
		e.Stream, e.Branch = r.stream, r.branch
		r.err = r.emit(e)
	}
}

// add tells a finding, once.
func (r *report) add(f Finding) {
	r.flush()
	r.tell(f)
}

func (r *report) tell(f Finding) {
	if f.Severity == "" {
		f.Severity = Failure
	}
	if f.Remedy == "" {
		f.Remedy = remedies[f.Code]
	}
	if n := r.sum.ByCode[f.Code]; n < maxFindings {
		k := f.key()
		if r.seen[k] {
			return
		}
		r.seen[k] = true
		r.send(Event{Finding: &f})
	}
	r.sum.ByCode[f.Code]++
	if f.Severity == Notice {
		r.sum.Notices++
	} else {
		r.sum.Failures++
	}
}

// row tells a finding on one row; rows of a partition that follow each other with
// the same one become one finding.
func (r *report) row(code Code, place string, v record.ViewNumber, p record.Partition, o record.Offset, detail string) {
	for i := range r.runs {
		f := &r.runs[i]
		if f.Code != code || *f.Partition != p || f.View != v {
			continue
		}
		if f.Place == place && f.Offsets.End == o {
			f.Offsets.End++
			return
		}
	}
	if len(r.runs) == maxRuns {
		r.flush()
	}
	r.runs = append(r.runs, Finding{Code: code, Place: place, Detail: detail}.at(v, p, record.Range{Start: o, End: o + 1}))
}

// flush tells the findings that were growing.
func (r *report) flush() {
	for _, f := range r.runs {
		if n := f.Offsets.Len(); n > 1 {
			f.Detail = fmt.Sprintf("%d rows; the first: %s", n, f.Detail)
		}
		r.tell(f)
	}
	r.runs = r.runs[:0]
}

// advance tells progress now and then. It returns why the check must end, if
// nobody listens any more.
func (r *report) advance() error {
	if now := time.Now(); r.err == nil && now.Sub(r.told) >= progressEvery {
		r.told = now
		p := r.progress
		r.send(Event{Progress: &p})
	}
	return r.err
}
