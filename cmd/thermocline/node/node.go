// Package node puts the parts of Thermocline together in one process: a data
// directory with catalog, log and warehouse, and what runs on them. It is used
// by serve, by tests and by benchmarks, and is the api's backend (backend.go).
//
// It holds no logic of streams; where two parts meet, it only passes on.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/thermocline/thermocline/archiver"
	"github.com/thermocline/thermocline/branch"
	"github.com/thermocline/thermocline/catalog"
	"github.com/thermocline/thermocline/dataset"
	"github.com/thermocline/thermocline/dataset/objstore"
	"github.com/thermocline/thermocline/hotbuffer"
	"github.com/thermocline/thermocline/hotbuffer/disk"
	"github.com/thermocline/thermocline/reader"
	"github.com/thermocline/thermocline/record"
	"github.com/thermocline/thermocline/subscriber"
	"github.com/thermocline/thermocline/transaction"
	"github.com/thermocline/thermocline/verify"
	"github.com/thermocline/thermocline/writer"
)

// Options of Open.
type Options struct {
	// Dir is the data directory; it is made if it is missing.
	Dir string
	// Warehouse keeps the datasets; nil: the directory "warehouse" below Dir. A data
	// directory stays with the warehouse that it was first opened with.
	Warehouse objstore.Store
	// LogBytes bounds the hot log on disk; 0: the log's default.
	LogBytes int64
	// SegmentBytes is the size of the log's files, three of which are filled
	// with zeros ahead; 0: the log's default. Tests keep them small.
	SegmentBytes int64
	// CheckpointEvery is the length of an epoch; 0: 2 s.
	CheckpointEvery time.Duration
	// Upkeep says how often datasets are compacted, expired and collected.
	Upkeep UpkeepOptions
	// OnFatal is called once when the log has failed for good: the process
	// should end and start again.
	OnFatal func(error)
	Logger  *slog.Logger
	// Reached is called behind each step of the archive protocol; tests only.
	Reached func(archiver.Step)

	seams seams
}

// seams let this package's tests put faults and clocks between the parts.
type seams struct {
	catalog  func(*catalog.Options)
	log      func(*disk.Options)
	buffer   func(hotbuffer.Buffer) hotbuffer.Buffer
	pointers func(dataset.Pointers) dataset.Pointers
	store    func(objstore.Store) objstore.Store
	checks   func(reader.CheckpointStore) reader.CheckpointStore
	branch   func(*branch.Options)
	archiver func(*archiver.Options)
}

func through[T any](seam func(T) T, part T) T {
	if seam == nil {
		return part
	}
	return seam(part)
}

// Node is an open data directory. Safe for concurrent use.
type Node struct {
	lock         io.Closer
	catalog      *catalog.Catalog
	log          *disk.Log
	datasets     *dataset.Datasets
	warehouse    objstore.Store
	directory    *branch.Directory
	checks       *reader.Checkpointer
	reader       *reader.Reader
	writer       *writer.Writer
	subscribers  *subscriber.Coordinator
	archiver     *archiver.Archiver
	figures      *figures
	verifier     *verify.Verifier
	upkeep       *upkeep
	transactions *transaction.Transactions
	logger       *slog.Logger

	closing  sync.Once
	closeErr error
}

// Layout of the data directory.
const (
	lockFile     = "LOCK"
	catalogFile  = "catalog.db"
	logDir       = "log"
	warehouseDir = "warehouse"
)

// Open opens a data directory for this process alone: record.ErrBusy if
// another one has it. What a crash left is repaired; Run does the rest.
func Open(ctx context.Context, o Options) (_ *Node, err error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if err := makeDir(vfs.Default, dir); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	n := &Node{logger: o.Logger}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open data directory %s: %w", dir, err), n.close())
		}
	}()
	if n.lock, err = lock(filepath.Join(dir, lockFile)); err != nil {
		return nil, err
	}
	names := catalog.Options{Path: filepath.Join(dir, catalogFile)}
	if o.seams.catalog != nil {
		o.seams.catalog(&names)
	}
	if n.catalog, err = catalog.Open(ctx, names); err != nil {
		return nil, err
	}
	hot := disk.Options{MaxBytes: o.LogBytes, SegmentBytes: o.SegmentBytes, Logger: o.Logger, OnFatal: o.OnFatal}
	if o.seams.log != nil {
		o.seams.log(&hot)
	}
	if n.log, err = disk.Open(filepath.Join(dir, logDir), hot); err != nil {
		return nil, err
	}
	files, err := openWarehouse(ctx, n.catalog, o.Warehouse, dir)
	if err != nil {
		return nil, err
	}
	n.warehouse = files
	files = through(o.seams.store, files)
	buffer := through(o.seams.buffer, hotbuffer.Buffer(n.log))
	pointers := through(o.seams.pointers, dataset.Pointers(tablePointers{n.catalog}))
	checks := through(o.seams.checks, reader.CheckpointStore(n.catalog))
	n.datasets = dataset.New(files, pointers, dataset.Options{})
	streams := branch.Options{Catalog: n.catalog, Buffer: buffer, Datasets: n.datasets, Archive: n.archive, Files: n.datasets, Logger: o.Logger}
	if o.seams.branch != nil {
		o.seams.branch(&streams)
	}
	if n.directory, err = branch.Open(ctx, streams); err != nil {
		return nil, err
	}
	cut := &cutViews{n: n}
	n.checks = reader.NewCheckpointer(buffer, checks, cut.list, reader.CheckpointOptions{Every: o.CheckpointEvery, Guests: cut.guests, Logger: o.Logger})
	n.reader = reader.New(buffer, n.datasets, n.catalog, n.checks)
	n.writer = writer.New(entrance{n.directory}, buffer)
	n.subscribers = subscriber.New(subscriber.Options{
		Store: n.catalog, History: n.catalog, Branches: places{n.directory}, Reads: n.reader, Checkpoints: n.checks, Log: buffer, Logger: o.Logger,
	})
	archives := archiver.Options{
		Branches: targets{n.directory}, Leases: n.catalog, Schemas: n.catalog, Checkpoints: checkpoints{n.checks},
		Buffer: buffer, Datasets: n.datasets,
		// The lock file makes this the only process of the directory.
		Owner: "node-" + n.catalog.ClusterID(), Cluster: n.catalog.ClusterID(),
		Holds: holds{n.catalog}, Fullness: func() float64 { return fullness(n.log.LogStats()) },
		CompactBytes: o.Upkeep.CompactBytes,
		Logger:       o.Logger, Reached: o.Reached,
	}
	if o.seams.archiver != nil {
		o.seams.archiver(&archives)
	}
	if n.archiver, err = archiver.New(archives); err != nil {
		return nil, err
	}
	n.verifier = newVerifier(n.catalog, n.log, files)
	n.transactions = transaction.New(n.catalog, n.datasets)
	n.upkeep = newUpkeep(n, o.Upkeep)
	n.figures = &figures{n: n, views: map[record.ViewID]remembered{}}
	return n, nil
}

// archive is what a branch that is made waits for; Open does not make any.
func (n *Node) archive(ctx context.Context, id catalog.BranchID) error {
	_, err := n.archiver.Archive(ctx, id)
	return err
}

// openWarehouse opens the data directory's own warehouse if it is given none.
func openWarehouse(ctx context.Context, c *catalog.Catalog, given objstore.Store, dir string) (objstore.Store, error) {
	files := given
	if files == nil {
		var err error
		if files, err = objstore.NewFS(filepath.Join(dir, warehouseDir)); err != nil {
			return nil, err
		}
	}
	return files, c.BindWarehouse(ctx, files.Base())
}

// lock takes the directory for this process; the system releases it when the
// process ends, however it does.
func lock(file string) (io.Closer, error) {
	l, err := vfs.Default.Lock(file)
	if path := (*fs.PathError)(nil); err == nil || errors.As(err, &path) {
		return l, err
	}
	return nil, fmt.Errorf("another process has it open; stop that one or choose another --data: %w: %w", err, record.ErrBusy)
}

// Run takes checkpoints, archives, keeps datasets small, and deletes what is in the
// trash, until ctx ends. Then every row that waits is archived, for at most finish, and Run
// returns. Publishing must have stopped before ctx ends for that to be all rows.
func (n *Node) Run(ctx context.Context, finish time.Duration) error {
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return n.checks.Run(running) })
	g.Go(func() error { return n.archiver.Run(running) })
	g.Go(func() error { return n.directory.Run(running) })
	g.Go(func() error { return n.subscribers.Run(running) })
	g.Go(func() error { return n.upkeep.run(running) })
	err := g.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	if ferr := n.archiver.Finish(last); ferr != nil {
		// The rows are safe in the log, and archived after the next start.
		n.logger.Warn("archive at shutdown", "error", ferr)
	}
	return err
}

// Close releases the directory. Call it after Run has returned. Rows under way
// are finished or refused; waiting readers wake with record.ErrClosed.
// Idempotent.
func (n *Node) Close() error {
	n.closing.Do(func() { n.closeErr = n.close() })
	return n.closeErr
}

func (n *Node) close() error { return closeParts(n.log, n.catalog, n.lock) }

// closeParts closes what was opened; nil is what was not. The lock goes last.
func closeParts(log *disk.Log, c *catalog.Catalog, lock io.Closer) error {
	var errs []error
	if log != nil {
		errs = append(errs, log.Close())
	}
	if c != nil {
		errs = append(errs, c.Close())
	}
	if lock != nil {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}
