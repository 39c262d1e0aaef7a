package writer

import (
	"fmt"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/thermocline/thermocline/schema"
)

// foreign is the way from Avro data of a client's schema to the rows of a
// branch: straight where it can be, else through columns, because matching
// columns by name, converting and checking their values is there already
// (ArrowToAvro). Immutable but for its pool, shared by concurrent requests.
type foreign struct {
	wire      *schema.ForeignAvro
	direct    *schema.ForeignRows // nil: there is only the long way
	theirs    *schema.Schema
	toColumns *schema.AvroToArrow
	toRows    *schema.ArrowToAvro
	pool      sync.Pool // of *columns
}

// columns is the working memory between the two programs.
type columns struct {
	build *schema.Builder
	mem   *boundedAllocator
	bytes int // of the data in it
}

func (f *foreign) newColumns() *columns {
	if c, ok := f.pool.Get().(*columns); ok {
		return c
	}
	mem := newBoundedAllocator()
	return &columns{build: schema.NewBuilder(f.theirs, mem), mem: mem}
}

func (c *columns) full() bool { return c.build.Len() >= columnRows || c.bytes >= columnBytes }

// take returns the rows so far, which the caller releases.
func (c *columns) take() arrow.RecordBatch {
	c.bytes = 0
	return c.build.NewBatch()
}

func (f *foreign) giveBack(c *columns) {
	c.build.Release()
	c.bytes = 0
	c.mem.reset()
	f.pool.Put(c)
}

func compileForeign(p *program, avsc []byte, u schema.UnknownFields) (*foreign, error) {
	wire, err := schema.CompileForeignAvro(avsc)
	if err != nil {
		return nil, err
	}
	f := &foreign{wire: wire}
	f.theirs, _ = wire.Schema().FreshIDs(schema.FirstUserID)
	if f.toColumns, err = schema.CompileAvroToArrow(f.theirs, f.theirs); err != nil {
		return nil, err
	}
	if f.toRows, err = schema.CompileArrowToAvro(f.theirs.Arrow(), p.Schema, schema.ArrowOptions{UnknownFields: u}); err != nil {
		return nil, fmt.Errorf("the container's schema does not fit the stream's: %w", err)
	}
	f.direct = schema.CompileForeignRows(wire, p.Schema, 0)
	return f, nil
}

// foreigns are the client schemas that a program has met last: compiling one
// costs as much as a thousand rows.
type foreigns struct {
	mu   sync.Mutex
	list []foreignEntry // the one met last stands first
}

type foreignEntry struct {
	avsc    string
	unknown schema.UnknownFields
	foreign *foreign
}

// maxForeigns and maxForeignText bound what a program keeps: schemas, and the
// text of a schema.
const (
	maxForeigns    = 8
	maxForeignText = 64 << 10
)

func (fs *foreigns) find(p *program, avsc []byte, u schema.UnknownFields) (*foreign, error) {
	if len(avsc) > maxForeignText {
		return compileForeign(p, avsc, u)
	}
	if f := fs.known(avsc, u); f != nil {
		return f, nil
	}
	f, err := compileForeign(p, avsc, u)
	if err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(fs.list) == maxForeigns {
		fs.list = fs.list[:maxForeigns-1]
	}
	fs.list = append(fs.list, foreignEntry{})
	copy(fs.list[1:], fs.list)
	fs.list[0] = foreignEntry{string(avsc), u, f}
	return f, nil
}

func (fs *foreigns) known(avsc []byte, u schema.UnknownFields) *foreign {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i, e := range fs.list {
		if e.unknown == u && e.avsc == string(avsc) {
			copy(fs.list[1:i+1], fs.list[:i])
			fs.list[0] = e
			return e.foreign
		}
	}
	return nil
}
