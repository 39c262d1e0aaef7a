package lint

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
)

// below lists, for each top-level folder, the other top-level folders that it
// may import. Subpackages belong to their folder, so hotbuffer/disk obeys the
// line of hotbuffer. Siblings (reader, writer, archiver, branch) do not know
// each other; hotbuffer and dataset meet only above them.
var below = map[string][]string{
	"record":    {},
	"schema":    {"record"},
	"catalog":   {"schema", "record"},
	"hotbuffer": {"record"},
	"dataset":   {"schema", "record"},
	"reader":    {"dataset", "hotbuffer", "catalog", "schema", "record"},
	"writer":    {"dataset", "hotbuffer", "catalog", "schema", "record"},
	"archiver":  {"dataset", "hotbuffer", "catalog", "schema", "record"},
	"branch":    {"dataset", "hotbuffer", "catalog", "schema", "record"},
	// Uploads into datasets: it tells the catalog of files before they are visible.
	"transaction": {"dataset", "catalog", "schema", "record"},
	// Reading positions on the server, and the check of all that is stored:
	// both stand on the reader's ground.
	"subscriber": {"reader", "dataset", "hotbuffer", "catalog", "schema", "record"},
	"verify":     {"reader", "dataset", "hotbuffer", "catalog", "schema", "record"},
	"api":        {"subscriber", "verify", "reader", "writer", "archiver", "branch", "transaction", "dataset", "hotbuffer", "catalog", "schema", "record"},
	"webui":      {},
	"cmd": {
		"api", "webui", "subscriber", "verify", "reader", "writer", "archiver", "branch", "transaction",
		"dataset", "hotbuffer", "catalog", "schema", "record",
	},
	"bench": {
		"cmd", "api", "subscriber", "verify", "reader", "writer", "archiver", "branch", "transaction",
		"dataset", "hotbuffer", "catalog", "schema", "record",
	},
	"examples": {}, // talk to the binary, like a user
	"test":     {}, // talks to the binary, like a user
	"internal": {},
}

// imports enforces the table above. Test files of an external test package
// (package x_test) are exempt: nothing can import them, so they make no knot.
func imports(f *file, module string) []Problem {
	if f.ast == nil || f.nested || f.test && strings.HasSuffix(f.ast.Name.Name, "_test") {
		return nil
	}
	if f.top == "" {
		return []Problem{f.at(f.ast.Package, "Go files do not live at the root; put it into the folder it belongs to")}
	}
	allowed, known := below[f.top]
	if !known {
		return []Problem{f.at(f.ast.Package, "folder %s is not in the import table; add it to internal/lint/rules.go and to docs/ARCHITECTURE.md", f.top)}
	}
	var problems []Problem
	for _, spec := range f.ast.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has refused it already
		}
		rest, ours := strings.CutPrefix(target, module+"/")
		if !ours {
			continue
		}
		top, _, _ := strings.Cut(rest, "/")
		if top == f.top || slices.Contains(allowed, top) {
			continue
		}
		problems = append(problems, f.at(spec.Pos(),
			"%s must not import %s; imports run downwards only: declare the interface here and let cmd wire it", f.top, top))
	}
	return problems
}

// maxLines is where a file stops being one idea.
const maxLines = 999

func length(f *file, _ string) []Problem {
	if f.generated || f.lines <= maxLines {
		return nil
	}
	return []Problem{{f.path, 0, "has " + strconv.Itoa(f.lines) + " lines, " + strconv.Itoa(maxLines) + " are the most; split it by idea"}}
}

// drawers are names that say nothing of what is inside.
var drawers = []string{"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "shared"}

func packageName(f *file, _ string) []Problem {
	if f.ast == nil {
		return nil
	}
	name := strings.TrimSuffix(f.ast.Name.Name, "_test")
	for _, n := range []string{name, path.Base(path.Dir(f.path))} {
		if slices.Contains(drawers, n) {
			return []Problem{f.at(f.ast.Package, "a package called %s says nothing; name it for what it does", n)}
		}
	}
	return nil
}

// contexts keeps context.Background and context.TODO to the places where a
// program begins: cmd, bench, examples and tests. Everywhere else the caller decides
// when work ends.
func contexts(f *file, _ string) []Problem {
	if f.ast == nil || f.test || f.generated || f.top == "cmd" || f.top == "bench" || f.top == "examples" {
		return nil
	}
	var local string
	for _, spec := range f.ast.Imports {
		if spec.Path.Value != `"context"` {
			continue
		}
		local = "context"
		if spec.Name != nil {
			local = spec.Name.Name
		}
	}
	if local == "" {
		return nil
	}
	var problems []Problem
	report := func(n ast.Node, name string) {
		if name == "Background" || name == "TODO" {
			problems = append(problems, f.at(n.Pos(), "context.%s outside cmd, bench, examples and tests; take the context from the caller", name))
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == local {
				report(n, n.Sel.Name)
			}
			return false
		case *ast.Ident:
			if local == "." {
				report(n, n.Name)
			}
		}
		return true
	})
	return problems
}
