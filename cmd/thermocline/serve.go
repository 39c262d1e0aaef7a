package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/thermocline/thermocline/api"
	"github.com/thermocline/thermocline/cmd/thermocline/node"
)

// finishTime bounds the last archive of a clean shutdown, requestTime the end of
// the requests under way before it.
const (
	finishTime  = 30 * time.Second
	requestTime = 10 * time.Second
)

type serveFlags struct {
	data, listen, addressFile string
	warehouse                 warehouseFlags
	insecure                  bool
	logLimit                  int64
	logJSON                   bool
	verbose                   bool
	upkeep                    upkeepFlags
}

func serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server: one process, no other service.

All state is in the data directory: log/ (hot rows), warehouse/ (Iceberg tables),
catalog.db (names, schemas, checkpoints, table pointers). One process at a time
may have it open.

With --warehouse s3://BUCKET[/PREFIX] the tables lie in an S3 bucket. Credentials are
taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), else
from ~/.aws/credentials, else from the machine's role. The server must honour
If-None-Match on writes.

SIGINT or SIGTERM ends it cleanly: requests under way are answered, waiting rows
are archived (for at most 30 s), and the exit code is 0. A second signal ends it at
once. After that, and after kill -9, nothing that was acknowledged is missing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), f, c.ErrOrStderr()) },
	}
	c.Flags().StringVar(&f.data, "data", "data", "the data directory; made if missing")
	f.warehouse.register(c.Flags())
	f.upkeep.register(c.Flags())
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8080", "address to listen on; port 0 takes a free one")
	c.Flags().StringVar(&f.addressFile, "address-file", "", "write the address here once the server is ready")
	c.Flags().BoolVar(&f.insecure, "insecure-listen", false, "allow an address that is not loopback, although there is no authentication yet")
	c.Flags().Int64Var(&f.logLimit, "log-limit", 0, "bytes that the hot log may take on disk (default 64 GiB); beyond it publishing is refused with 507")
	c.Flags().BoolVar(&f.logJSON, "log-json", false, "log as JSON")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log every request")
	return c
}

func serve(ctx context.Context, f serveFlags, out interface{ Write([]byte) (int, error) }) error {
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	var handler slog.Handler = slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})
	if f.logJSON {
		handler = slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level})
	}
	logger := slog.New(handler)
	s, err := startServer(ctx, f, logger)
	if err != nil {
		return err
	}
	return s.wait(ctx)
}

// server is a node behind its REST interface.
type server struct {
	node    *node.Node
	http    *http.Server
	address string
	log     *slog.Logger

	fatal  chan error // the log has failed for good
	served chan error
	ran    chan error
	stop   context.CancelFunc // ends the node's background work
}

// startServer returns when the server is ready for requests.
func startServer(ctx context.Context, f serveFlags, logger *slog.Logger) (*server, error) {
	if err := checkListen(f); err != nil {
		return nil, err
	}
	s := &server{log: logger, fatal: make(chan error, 1), served: make(chan error, 1), ran: make(chan error, 1)}
	tables, err := f.warehouse.open(ctx)
	if err != nil {
		return nil, err
	}
	upkeep, err := f.upkeep.options()
	if err != nil {
		return nil, err
	}
	n, err := node.Open(ctx, node.Options{
		Dir: f.data, Warehouse: tables, LogBytes: f.logLimit, Upkeep: upkeep, Logger: logger, Reached: reached,
		OnFatal: func(err error) { s.fatal <- err },
	})
	if err != nil {
		return nil, err
	}
	s.node = n
	a, err := api.New(n.Backend(), api.Options{Version: buildVersion(), Logger: logger})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w; choose another --listen", f.listen, err), n.Close())
	}
	s.address = l.Addr().String()
	s.http = a.Server()
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go func() { s.ran <- n.Run(background, finishTime) }()
	go func() { s.served <- s.http.Serve(l) }()
	if f.addressFile != "" {
		if err := writeAddress(f.addressFile, s.address); err != nil {
			return nil, errors.Join(err, s.shutdown(ctx))
		}
	}
	logger.Info("serving", "address", "http://"+s.address, "data", f.data)
	return s, nil
}

// wait serves until ctx ends or something fails, and then shuts down.
func (s *server) wait(ctx context.Context) error {
	var cause error
	select {
	case <-ctx.Done():
		s.log.Info("shutting down")
	case err := <-s.fatal:
		cause = fmt.Errorf("the hot log has failed; nothing acknowledged is lost, start the server again once the disk is sound: %w", err)
	case err := <-s.served:
		cause = fmt.Errorf("serve HTTP: %w", err)
	}
	return errors.Join(cause, s.shutdown(ctx))
}

// shutdown ends requests first, so that the last archive has every row that was
// acknowledged, then the background work, then the stores.
func (s *server) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
	defer cancel()
	var errs []error
	if err := s.http.Shutdown(ctx); err != nil {
		// Their clients got no answer; closing cuts them off.
		s.log.Warn("requests were cut off", "error", err)
		errs = append(errs, s.http.Close())
	}
	s.stop()
	errs = append(errs, <-s.ran, s.node.Close())
	err := errors.Join(errs...)
	s.log.Info("stopped", "error", err)
	return err
}

// checkListen refuses addresses that others can reach, because anybody who
// reaches the server may do everything.
func checkListen(f serveFlags) error {
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return fmt.Errorf("--listen %q: %w; write host:port", f.listen, err)
	}
	ip := net.ParseIP(host)
	if host == "localhost" || (ip != nil && ip.IsLoopback()) || f.insecure {
		return nil
	}
	return fmt.Errorf("--listen %q can be reached by others, and this version has no authentication; use 127.0.0.1, or --insecure-listen if the network is yours", f.listen)
}

// writeAddress makes the file appear whole.
func writeAddress(file, address string) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".address-*")
	if err != nil {
		return fmt.Errorf("write --address-file: %w", err)
	}
	_, err = fmt.Fprintln(tmp, address)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write --address-file: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
