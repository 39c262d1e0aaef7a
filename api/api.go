// Package api is the network surface: the REST interface of openapi.yaml, with
// its limits, errors, output formats and metrics.
//
// It decides nothing about streams: handlers check the form of a request, call
// the Backend and write its answer. What is behind the Backend is not known
// here.
package api

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/thermocline/thermocline/api/iceberg"
	"github.com/thermocline/thermocline/api/rest"
	"github.com/thermocline/thermocline/catalog"
)

//go:embed openapi.yaml
var contract []byte

// Contract is openapi.yaml.
func Contract() []byte { return contract }

// MaxRequestBytes bounds the body of a request, as sent and decompressed.
const MaxRequestBytes = 64 << 20

// Options of an API. Zero values mean the defaults that stand behind them.
type Options struct {
	Version string
	Logger  *slog.Logger // slog.Default()

	// MaxPublishes (2048) and MaxPublishBytes (256 MiB) bound the publish
	// requests under way and the memory that their bodies take; more get 429.
	MaxPublishes    int
	MaxPublishBytes int64
	// MaxReads (32) bounds the bounded reads under way, MaxTails (2048) and
	// MaxSubscribes (2048) the held-open ones; more get 429.
	MaxReads, MaxTails, MaxSubscribes int
	// MaxCatalogRequests (256) bounds the requests to the Iceberg REST catalog
	// under way; more get 429.
	MaxCatalogRequests int
	// BodyTimeout (2 min) bounds how long a request's body may take to arrive,
	// BodyPause (10 s) how long any 8 KiB of it may.
	BodyTimeout, BodyPause time.Duration
	// StallTimeout (30 s) is how long a client may leave what it is sent
	// unread before it is cut.
	StallTimeout time.Duration
	// Heartbeat (10 s) is the pause after which a held-open read shows that it
	// lives.
	Heartbeat time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.MaxPublishes = cmp.Or(o.MaxPublishes, 2048)
	o.MaxPublishBytes = cmp.Or(o.MaxPublishBytes, 256<<20)
	o.MaxReads = cmp.Or(o.MaxReads, 32)
	o.MaxTails = cmp.Or(o.MaxTails, 2048)
	o.MaxSubscribes = cmp.Or(o.MaxSubscribes, 2048)
	o.MaxCatalogRequests = cmp.Or(o.MaxCatalogRequests, 256)
	o.BodyTimeout = cmp.Or(o.BodyTimeout, 2*time.Minute)
	o.BodyPause = cmp.Or(o.BodyPause, 10*time.Second)
	o.StallTimeout = cmp.Or(o.StallTimeout, 30*time.Second)
	o.Heartbeat = cmp.Or(o.Heartbeat, 10*time.Second)
	if o.MaxPublishes < 0 || o.MaxReads < 0 || o.MaxTails < 0 || o.MaxSubscribes < 0 || o.MaxCatalogRequests < 0 || o.MaxPublishBytes < 3*MaxRequestBytes ||
		o.BodyTimeout < 0 || o.BodyPause < 0 || o.StallTimeout < 0 || o.Heartbeat < 0 {
		return o, fmt.Errorf("api options: limits and times must be positive, and MaxPublishBytes at least %d, three times the size of one request", 3*MaxRequestBytes)
	}
	return o, nil
}

// API serves REST. It is an http.Handler, safe for concurrent use.
type API struct {
	b          Backend
	o          Options
	log        *slog.Logger
	engine     *gin.Engine
	http       httpMetrics
	metrics    http.Handler
	intake     intake
	publishes  *slots
	reads      *slots
	tails      *slots
	subscribes *slots
	checks     chan struct{} // holds as many as are under way
	upkeep     chan struct{} // the same
	uploads    chan struct{} // the same

	draining  chan struct{}
	drainOnce sync.Once
}

var _ rest.ServerInterface = (*API)(nil)

// New returns an API over a backend whose parts are all set.
func New(b Backend, o Options) (*API, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if b.Streams == nil || b.Branches == nil || b.Tags == nil || b.Schemas == nil || b.Publisher == nil || b.Producers == nil || b.Reader == nil || b.Subscribers == nil || b.Archiver == nil || b.Datasets == nil || b.Warehouse == nil || b.Transactions == nil || b.Uploads == nil || b.Heads == nil || b.Maintainer == nil || b.Figures == nil || b.Verifier == nil || b.Iceberg == nil || b.Answers == nil {
		return nil, errors.New("api: every part of the backend must be set")
	}
	a := &API{
		b: b, o: o, log: o.Logger, http: newHTTPMetrics(),
		intake:     intake{maxBytes: o.MaxPublishBytes, maxBody: MaxRequestBytes, by: map[string]int64{}},
		publishes:  newSlots("requests are under way", o.MaxPublishes),
		reads:      newSlots("reads are under way", o.MaxReads),
		tails:      newSlots("tails are open", o.MaxTails),
		subscribes: newSlots("subscriber reads are open", o.MaxSubscribes),
		checks:     make(chan struct{}, maxChecks),
		upkeep:     make(chan struct{}, maxUpkeep),
		uploads:    make(chan struct{}, maxUploads),
		draining:   make(chan struct{}),
	}
	a.metrics = a.metricsHandler()
	a.engine = a.routes()
	return a, nil
}

// ServeHTTP serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.engine.ServeHTTP(w, r) }

// Drain ends held-open reads with UNAVAILABLE and makes /readyz fail, so that
// a graceful shutdown has only short requests to wait for. Idempotent.
func (a *API) Drain() { a.drainOnce.Do(func() { close(a.draining) }) }

// Server returns an HTTP server for a with the timeouts it needs; Shutdown
// drains a. There is no read timeout: it would end held-open reads. Bodies
// have BodyTimeout and BodyPause, and writes StallTimeout.
func (a *API) Server() *http.Server {
	s := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// For answers that are written at once; streamed ones move their own
		// deadline along.
		WriteTimeout:   10 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(a.log.Handler(), slog.LevelWarn),
	}
	s.RegisterOnShutdown(a.Drain)
	return s
}

func (a *API) routes() *gin.Engine {
	gin.SetMode(gin.ReleaseMode) // or it prints every route
	e := gin.New()
	e.UseEscapedPath = true // a producer id may hold a slash
	e.RedirectTrailingSlash = false
	e.HandleMethodNotAllowed = true
	e.Use(a.observe)
	e.NoRoute(func(c *gin.Context) {
		if strings.HasPrefix(c.Request.URL.Path, icebergPath+"/") {
			iceberg.NoRoute(c)
			return
		}
		a.fail(c, &problemError{http.StatusNotFound, "ROUTE_NOT_FOUND", "no such path; /v1/openapi.yaml lists all"})
	})
	e.NoMethod(func(c *gin.Context) {
		a.fail(c, &problemError{http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "the path does not have the method " + c.Request.Method + "; see the header Allow"})
	})
	rest.RegisterHandlersWithOptions(e, a, rest.GinServerOptions{
		Middlewares: []rest.MiddlewareFunc{a.checkQuery},
		ErrorHandler: func(c *gin.Context, err error, _ int) {
			a.fail(c, invalid("%v", err))
		},
	})
	iceberg.Register(e.Group(icebergPath), a.b.Iceberg, iceberg.Options{
		Body: a.readBounded, Answers: a.b.Answers, MaxRequests: a.o.MaxCatalogRequests,
	})
	return e
}

// icebergPath is where the Iceberg REST catalog begins.
const icebergPath = "/iceberg"

// target checks the path's stream and branch; on false it has answered.
func (a *API) target(c *gin.Context, stream, branch string) (string, bool) {
	name, err := fullName(stream)
	if err == nil {
		err = catalog.ValidateName("branch name", branch)
	}
	if err != nil {
		a.fail(c, err)
		return "", false
	}
	return name, true
}

// fullName checks a stream's name and returns it with its namespace.
func fullName(stream string) (string, error) {
	namespace, name, err := catalog.ParseName(stream)
	return namespace + "." + name, err
}
