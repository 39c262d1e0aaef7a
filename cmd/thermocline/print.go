package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// printJSON prints v for programs.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printTable prints rows of cells for people, below a heading.
func (a *app) printTable(heading string, rows [][]string) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	if heading != "" {
		fmt.Fprintln(w, strings.Join(strings.Fields(heading), "\t"))
	}
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// show prints an answer: as it is, or as a table.
func (a *app) show(answer any, heading string, rows [][]string) error {
	if a.output == "json" {
		return a.printJSON(answer)
	}
	return a.printTable(heading, rows)
}

func when(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// count writes a number with commas.
func count[T int | int32 | int64](n T) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func text[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

// isTerminal tells whether a person looks at w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull) // by what it is: standard input has another name
	return err != nil || !os.SameFile(info, null)
}

// confirm asks before something that cannot be undone, if there is a person to
// ask.
func (a *app) confirm(yes bool, question string) error {
	if yes || !isTerminal(a.in) {
		return nil
	}
	fmt.Fprintf(a.err, "%s Type yes to go on: ", question)
	answer, err := io.ReadAll(io.LimitReader(lineOf{a.in}, 16))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(answer)) != "yes" {
		return fmt.Errorf("nothing was done: the answer was not yes")
	}
	return nil
}

// lineOf reads up to the end of a line.
type lineOf struct{ r io.Reader }

func (l lineOf) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if i := strings.IndexByte(string(p[:n]), '\n'); i >= 0 {
		return i, io.EOF
	}
	return n, err
}
