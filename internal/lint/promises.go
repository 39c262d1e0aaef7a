package lint

import (
	"errors"
	"fmt"
	"go/ast"
	"io/fs"
	"regexp"
	"strings"
)

// promisesFile lists what the project promises, and the tests that hold it.
const promisesFile = "docs/GUARANTEES.md"

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// promises checks that every test which the promises name exists: a promise
// whose test was renamed or deleted is held by nothing.
func promises(fsys fs.FS, tests map[string]bool) ([]Problem, error) {
	text, err := fs.ReadFile(fsys, promisesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var problems []Problem
	for i, line := range strings.Split(string(text), "\n") {
		for _, m := range testName.FindAllStringSubmatch(line, -1) {
			if !tests[m[1]] {
				problems = append(problems, Problem{promisesFile, i + 1, fmt.Sprintf("there is no %s; name the test that holds the promise", m[1])})
			}
		}
	}
	return problems, nil
}

// addTests notes the tests and fuzzers of a file.
func addTests(tests map[string]bool, f *file) {
	if f.ast == nil || !f.test {
		return
	}
	for _, d := range f.ast.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
			tests[fn.Name.Name] = true
		}
	}
}
