package main

import (
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress is a bar for a person at a terminal; for others it says nothing.
type progress struct {
	in   *input
	bar  *progressbar.ProgressBar // nil: nobody looks
	done int64
}

func (a *app) newProgress(in *input) *progress {
	p := &progress{in: in}
	if isTerminal(a.err) && a.output == "table" {
		size := in.size
		if in.format == formatParquet {
			size = -1 // it is not read from front to back
		}
		p.bar = progressbar.NewOptions64(size,
			progressbar.OptionSetWriter(a.err), progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetDescription("0 rows"))
	}
	return p
}

// rows shows how many rows the stream has got.
func (p *progress) rows(n int64) {
	if p.bar == nil {
		return
	}
	p.done = n
	p.bar.Describe(count(n) + " rows")
	_ = p.bar.Set64(p.in.taken.Load()) // a bar that cannot be drawn stops nothing
}

// retry shows that the server does not answer.
func (p *progress) retry(err error) {
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%s rows; trying again: %.60s", count(p.done), err))
	}
}

func (p *progress) close() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
