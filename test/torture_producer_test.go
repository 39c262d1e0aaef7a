package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long a client of the torture waits for an answer before it
// asks again.
const patience = 3 * time.Second

// remote is a client of one stream, through the proxy.
type remote struct {
	http *http.Client
	url  string // of the branch
}

func newRemote(address string, st *stream) *remote {
	// A transport of its own: what the proxy does to one client's connections
	// is not hidden by another's.
	return &remote{&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2, ResponseHeaderTimeout: 2 * patience}}, "http://" + address + st.path}
}

// call is send for those who lose patience.
func (r *remote) call(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return r.send(ctx, method, path, header, body)
}

// send returns the body of a 2xx answer. Its errors are *problem, or mean that
// the outcome is unknown.
func (r *remote) send(ctx context.Context, method, path string, header http.Header, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, problemIn(resp, answer)
	}
	return answer, nil
}

func problemIn(resp *http.Response, body []byte) error {
	p := &problem{}
	if err := json.Unmarshal(body, p); err != nil || p.Code == "" {
		return fmt.Errorf("%s with a body that is no problem: %q", resp.Status, body)
	}
	p.Status = resp.StatusCode
	if p.Status == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
		return &problem{Status: p.Status, Code: "NO_RETRY_AFTER", Detail: "429 without Retry-After"}
	}
	return p
}

// passing tells problems that a client should meet with another attempt from
// those that no fault of this test may cause.
func passing(err error) bool {
	p := (*problem)(nil)
	if !errors.As(err, &p) {
		return true // a connection's
	}
	return slices.Contains([]string{"BUSY", "UNAVAILABLE", "TIMEOUT", "REQUEST_TIMEOUT", "BUFFER_FULL", "CLIENT_GONE"}, p.Code)
}

// rest waits a moment, unless ctx ends.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

type publishAnswer struct {
	Rows      int64
	Ranges    []publishedRange
	Duplicate bool
}

type publishedRange struct {
	Partition  int
	Start, End int64
}

// tortureProducer publishes request after request, each until it is acknowledged.
type tortureProducer struct {
	l      *ledger
	to     *remote
	name   string
	number int
	rnd    *rand.Rand
	gate   *sync.RWMutex // held by whoever wants quiet

	requests, retries, duplicates, asked atomic.Int64
}

func (p *tortureProducer) run(ctx context.Context) error {
	burst := 0
	for sequence := int64(0); ctx.Err() == nil; sequence++ {
		p.gate.RLock()
		err := p.publish(ctx, sequence)
		p.gate.RUnlock()
		if err != nil {
			return err
		}
		// Now and then many within a millisecond, the finest that rows are timed by.
		if burst == 0 && p.rnd.IntN(15) == 0 {
			burst = 30
		}
		if burst > 0 {
			burst--
			continue
		}
		rest(ctx, time.Duration(20+p.rnd.IntN(130))*time.Millisecond)
	}
	return nil
}

func (p *tortureProducer) publish(ctx context.Context, sequence int64) error {
	n := int64(1 + p.rnd.IntN(40))
	first := p.l.sending(p.number, n)
	var body bytes.Buffer
	for i := range n {
		row := tortureRow{Producer: p.name, Sequence: first + i, Payload: strings.Repeat(string(rune('a'+p.rnd.IntN(26))), p.rnd.IntN(120))}
		fmt.Fprintf(&body, `{"producer":%q,"sequence":%d,"payload":%q,"sum":%d}`+"\n", row.Producer, row.Sequence, row.Payload, row.sum())
	}
	header := http.Header{
		"Content-Type": ndjson["Content-Type"],
		"Producer-Id":  {p.name}, "Producer-Sequence": {strconv.FormatInt(sequence, 10)},
	}
	p.requests.Add(1)
	for ctx.Err() == nil {
		answer, err := p.attempt(ctx, header, body.Bytes(), sequence)
		switch {
		case err == nil:
			if answer.Duplicate {
				p.duplicates.Add(1)
			}
			return p.l.acknowledge(p.number, n, answer)
		case !passing(err):
			return fmt.Errorf("%s: request %d of %s: %w", p.l.st.name, sequence, p.name, err)
		}
		p.retries.Add(1)
		rest(ctx, time.Duration(10+p.rnd.IntN(200))*time.Millisecond)
	}
	return nil
}

// attempt sends the request, or, now and then behind the first time, does what a
// producer does that has lost its memory: it asks how far it has come.
func (p *tortureProducer) attempt(ctx context.Context, header http.Header, body []byte, sequence int64) (answer publishAnswer, err error) {
	if p.rnd.IntN(5) == 0 {
		text, err := p.to.call(ctx, http.MethodGet, "/producers/"+url.PathEscape(p.name), nil, nil)
		var last struct {
			publishAnswer
			Sequence int64
		}
		none := (*problem)(nil)
		switch {
		case errors.As(err, &none) && none.Code == "NOT_FOUND" && sequence == 0:
			last.Sequence = -1
		case err != nil:
			return answer, err
		default:
			if err := json.Unmarshal(text, &last); err != nil {
				return answer, err
			}
		}
		p.asked.Add(1)
		switch last.Sequence {
		case sequence:
			return last.publishAnswer, nil
		case sequence - 1:
		default:
			return answer, &problem{Code: "LOST_PRODUCER", Detail: fmt.Sprintf("the server's last request is %d, the last acknowledged is %d", last.Sequence, sequence-1)}
		}
	}
	text, err := p.to.call(ctx, http.MethodPost, "/rows", header, body)
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(text, &answer)
}
