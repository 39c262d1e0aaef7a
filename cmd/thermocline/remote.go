package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/thermocline/thermocline/api/client"
)

// maxAnswer bounds an answer that is read whole.
const maxAnswer = 64 << 20

// connect returns a client of the server that the flags name.
func (a *app) connect() (*client.Client, error) {
	server := a.server
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usage("--server %q: use an address like %s", a.server, defaultServer)
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 20,
	}
	a.idle = t.CloseIdleConnections
	agent := client.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("User-Agent", "thermocline/"+buildVersion())
		return nil
	})
	return client.NewClient(server, client.WithHTTPClient(&http.Client{Transport: t}), agent)
}

// problem is an answer of the server that is not a success.
type problem struct {
	client.Problem
	retryAfter time.Duration
}

func (p *problem) Error() string {
	return fmt.Sprintf("%s (%s, request %s)", p.Detail, p.Code, p.RequestID)
}

// unreachable is a connection that could not be made, or broke.
type unreachable struct {
	server string
	err    error
}

func (e *unreachable) Error() string {
	return fmt.Sprintf("no answer from %s: %v; is the server running there? Start it with thermocline serve, or name another with --server", e.server, e.err)
}

func (e *unreachable) Unwrap() error { return e.err }

// answer reads a whole answer into v (nil: none is expected).
func (a *app) answer(resp *http.Response, err error, v any) error {
	if resp, err = a.success(resp, err); err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return a.lost(err)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the answer of %s is not what the contract says: %w; is a thermocline server there?", a.server, err)
	}
	return nil
}

var errInterrupted = errors.New("interrupted")

// lost says that the connection failed, unless the user ended the run.
func (a *app) lost(err error) error {
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &unreachable{a.server, err}
}

// success passes on an answer that is one; of others it reads the problem.
func (a *app) success(resp *http.Response, err error) (*http.Response, error) {
	if err != nil {
		return nil, a.lost(err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, a.lost(err)
	}
	p := &problem{}
	if json.Unmarshal(body, &p.Problem) != nil || p.Code == "" {
		// Not from a thermocline server: a proxy, or something else.
		p.Problem = client.Problem{Status: resp.StatusCode, Code: "HTTP_" + strconv.Itoa(resp.StatusCode),
			Detail: fmt.Sprintf("%s answered %s", a.server, resp.Status), RequestID: resp.Header.Get("Request-Id")}
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		p.retryAfter = time.Duration(s) * time.Second
	}
	return nil, p
}

// retryable tells whether the same request may succeed later.
func retryable(err error) bool {
	var gone *unreachable
	var p *problem
	switch {
	case errors.As(err, &gone):
		return true
	case errors.As(err, &p):
		switch p.Status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable,
			http.StatusGatewayTimeout, http.StatusInsufficientStorage:
			return true
		}
	}
	return false
}
