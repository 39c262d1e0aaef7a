// Package lint checks what the compiler cannot: that imports run downwards
// only, that files stay short, that no package is a drawer for leftovers, that
// contexts come from the caller, and that promises name tests which exist. Its test runs the rules over the whole
// repository, and over fixtures that break each of them.
//
// It is not a style checker; golangci-lint is (see .golangci.yml).
package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Problem is one broken rule at one place.
type Problem struct {
	Path string // slash-separated, relative to the root that was checked
	Line int    // 0: the whole file
	Text string // what is wrong, and what to do
}

func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.Path, p.Text)
	}
	return fmt.Sprintf("%s:%d: %s", p.Path, p.Line, p.Text)
}

// file is a source file as the rules see it.
type file struct {
	path      string // relative to the root
	top       string // first folder of path; "" at the root
	nested    bool   // belongs to a module of its own below the root
	test      bool   // name ends in _test.go
	generated bool
	lines     int
	fset      *token.FileSet
	ast       *ast.File // nil for anything but Go
}

func (f *file) at(pos token.Pos, format string, args ...any) Problem {
	return Problem{f.path, f.fset.Position(pos).Line, fmt.Sprintf(format, args...)}
}

// generatedLine is the marker of https://go.dev/s/generatedcode, also behind
// the comment signs of the other languages.
var generatedLine = regexp.MustCompile(`(?m)^(//|#|--|/\*) Code generated .* DO NOT EDIT\.`)

// sources are the endings of the files that people write and read.
var sources = []string{".go", ".py", ".sh", ".sql", ".ts", ".tsx", ".css"}

// Check applies every rule to every source file below the root of fsys, whose
// module is called module. Folders named testdata, node_modules, bin and dist,
// and those that begin with a dot, are passed over.
func Check(fsys fs.FS, module string) ([]Problem, error) {
	var problems []Problem
	tests := map[string]bool{}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if skipped(p, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !slices.Contains(sources, path.Ext(p)) {
			return nil
		}
		f, err := load(fsys, p)
		if err != nil {
			return err
		}
		for _, rule := range []func(*file, string) []Problem{imports, length, packageName, contexts} {
			problems = append(problems, rule(f, module)...)
		}
		addTests(tests, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	more, err := promises(fsys, tests)
	return append(problems, more...), err
}

func skipped(p, name string) bool {
	if p == "." {
		return false
	}
	switch name {
	case "testdata", "node_modules", "bin", "dist":
		return true
	}
	// data is where `thermocline serve` leaves rows when started here.
	return p == "data" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}

func load(fsys fs.FS, p string) (*file, error) {
	text, err := fs.ReadFile(fsys, p)
	if err != nil {
		return nil, err
	}
	f := &file{
		path:      p,
		test:      strings.HasSuffix(p, "_test.go"),
		generated: generatedLine.Match(text),
		lines:     bytes.Count(text, []byte("\n")),
		nested:    inNestedModule(fsys, p),
		fset:      token.NewFileSet(),
	}
	if top, _, below := strings.Cut(p, "/"); below {
		f.top = top
	}
	if path.Ext(p) == ".go" {
		f.ast, err = parser.ParseFile(f.fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// inNestedModule tells whether a folder between the root and p has a go.mod.
func inNestedModule(fsys fs.FS, p string) bool {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if _, err := fs.Stat(fsys, dir+"/go.mod"); err == nil {
			return true
		}
	}
	return false
}
