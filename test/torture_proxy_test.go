package test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flaky is a TCP proxy between clients and the server whose connections can be
// cut, half closed, delayed, and robbed of their answers. Its address stays when
// the server restarts.
type flaky struct {
	listener net.Listener
	target   string

	delay   atomic.Int64 // of each piece, in nanoseconds
	swallow atomic.Bool  // what the server says is lost

	mu    sync.Mutex
	links map[*link]struct{}
	all   sync.WaitGroup
}

type link struct{ client, server *net.TCPConn }

func newFlaky(t *testing.T, target string) *flaky {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{listener: l, target: target, links: map[*link]struct{}{}}
	f.all.Go(f.accept)
	t.Cleanup(func() {
		l.Close()
		f.cut()
		f.all.Wait()
	})
	return f
}

func (f *flaky) address() string { return f.listener.Addr().String() }

func (f *flaky) accept() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.all.Go(func() { f.serve(client.(*net.TCPConn)) })
	}
}

func (f *flaky) serve(client *net.TCPConn) {
	defer client.Close()
	server, err := net.DialTimeout("tcp", f.target, 10*time.Second)
	if err != nil {
		return // the server is down
	}
	defer server.Close()
	l := &link{client, server.(*net.TCPConn)}
	f.mu.Lock()
	f.links[l] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.links, l)
		f.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { f.copy(l.server, l.client, false) })
	both.Go(func() { f.copy(l.client, l.server, true) })
	both.Wait()
}

// copy ends when one side does, and takes the other with it as a cut would.
func (f *flaky) copy(to, from *net.TCPConn, answers bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && (!answers || !f.swallow.Load()) {
			if d := time.Duration(f.delay.Load()); d > 0 {
				time.Sleep(d)
			}
			if _, err := to.Write(buf[:n]); err != nil {
				from.Close()
				return
			}
		}
		if err != nil {
			if answers {
				to.Close()
			} else {
				to.CloseWrite() //nolint:errcheck // it may be closed altogether
			}
			return
		}
	}
}

func (f *flaky) each(do func(*link)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.links {
		do(l)
	}
}

// cut resets all connections, on both sides.
func (f *flaky) cut() {
	f.each(func(l *link) {
		for _, c := range []*net.TCPConn{l.client, l.server} {
			c.SetLinger(0) //nolint:errcheck // closed already
			c.Close()
		}
	})
}

// halfClose tells the server that nothing more comes, and lets it answer.
func (f *flaky) halfClose() {
	f.each(func(l *link) {
		l.server.CloseWrite() //nolint:errcheck // closed already
	})
}
