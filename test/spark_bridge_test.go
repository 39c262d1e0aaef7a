package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// spark is a Spark session with Iceberg (test/spark/bridge.py) whose catalogs
// are those of one server. Its methods are called one after the other.
type spark struct {
	commands io.WriteCloser
	answers  *bufio.Scanner
	log      *logFile
	// tables are those that each statement is to see as they are. Spark keeps a table
	// as it was when it was loaded, and cannot change rows of one that it does not keep.
	tables []string
}

// startSpark runs a session until the test ends. THERMOCLINE_SPARK names a
// Python with PySpark, and THERMOCLINE_SPARK_JARS the folder of Iceberg's jar for it.
func startSpark(t *testing.T, s *server) *spark {
	t.Helper()
	python, jars := os.Getenv("THERMOCLINE_SPARK"), os.Getenv("THERMOCLINE_SPARK_JARS")
	if python == "" || jars == "" {
		t.Skip("THERMOCLINE_SPARK and THERMOCLINE_SPARK_JARS name no Spark; make interop-spark installs one")
	}
	java(t)
	dir := t.TempDir()
	modules, err := filepath.Abs("python")
	if err != nil {
		t.Fatal(err)
	}
	bridge, err := filepath.Abs("spark/bridge.py")
	if err != nil {
		t.Fatal(err)
	}
	sp := &spark{log: &logFile{}}
	cmd := exec.Command(python, bridge, "http://"+s.address, filepath.Join(jars, "*"), dir)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH="+modules, "SPARK_LOCAL_IP=127.0.0.1")
	cmd.Stderr = sp.log
	if sp.commands, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	sp.answers = bufio.NewScanner(out)
	sp.answers.Buffer(nil, 64<<20)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sp.commands.Close() // it ends with its input
		if err := cmd.Wait(); err != nil {
			t.Errorf("Spark: %v", err)
		}
		if t.Failed() {
			t.Logf("end of Spark's log:\n%s", sp.log.tail(8<<10))
		}
	})
	return sp
}

type sparkAnswer struct {
	Rows  [][]any
	Error string
}

func (sp *spark) ask(t *testing.T, command any) sparkAnswer {
	t.Helper()
	text, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sp.commands.Write(append(text, '\n')); err != nil {
		t.Fatalf("Spark takes no command: %v\n%s", err, sp.log.tail(8<<10))
	}
	if !sp.answers.Scan() {
		t.Fatalf("Spark gave no answer to %s: %v\n%s", text, sp.answers.Err(), sp.log.tail(8<<10))
	}
	var a sparkAnswer
	d := json.NewDecoder(bytes.NewReader(sp.answers.Bytes()))
	d.UseNumber()
	if err := d.Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

// run runs a statement on tables as they are now.
func (sp *spark) run(t *testing.T, statement string) sparkAnswer {
	t.Helper()
	for _, table := range sp.tables {
		if a := sp.ask(t, map[string]string{"sql": "refresh table " + table}); a.Error != "" {
			t.Fatalf("Spark refreshes %s: %s", table, firstLines(a.Error, 20))
		}
	}
	return sp.ask(t, map[string]string{"sql": statement})
}

// sql runs a statement and returns its rows; numbers are json.Number. It is run again
// when its error has one of conflicts in it.
func (sp *spark) sql(t *testing.T, statement string, conflicts ...string) [][]any {
	t.Helper()
	a := sp.run(t, statement)
	for range 20 {
		if !slices.ContainsFunc(conflicts, func(c string) bool { return strings.Contains(a.Error, c) }) {
			break
		}
		a = sp.run(t, statement)
	}
	if a.Error != "" {
		t.Fatalf("Spark: %s\n%s", statement, firstLines(a.Error, 20))
	}
	return a.Rows
}

// value is the one value that a statement gives.
func (sp *spark) value(t *testing.T, statement string) string {
	t.Helper()
	rows := sp.sql(t, statement)
	if len(rows) != 1 || len(rows[0]) != 1 {
		t.Fatalf("Spark: %s: %v, want one value", statement, rows)
	}
	text, err := json.Marshal(rows[0][0])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(string(text), `"`)
}

// refuses runs a statement that has to fail with a message that has want in it.
func (sp *spark) refuses(t *testing.T, statement, want string) {
	t.Helper()
	a := sp.run(t, statement)
	if a.Error == "" {
		t.Errorf("Spark: %s: done, want an error with %q", statement, want)
	} else if !strings.Contains(a.Error, want) {
		t.Errorf("Spark: %s: want an error with %q, not:\n%s", statement, want, firstLines(a.Error, 20))
	}
}

// compare has Spark read all of a table, and behind predicates, and holds that
// against what the server says of the stream.
func (sp *spark) compare(t *testing.T, table string, st *stream) {
	t.Helper()
	dir := t.TempDir()
	command := map[string]string{
		"compare": table, "schema": filepath.Join(dir, "schema.json"), "rows": filepath.Join(dir, "rows.ndjson"),
	}
	st.describeTo(t, command["schema"], command["rows"])
	a := sp.ask(t, command)
	if a.Error != "" {
		t.Fatalf("Spark reads %s:\n%s", table, firstLines(a.Error, 40))
	}
	t.Logf("Spark and the server agree on %s rows of %s, and on %s predicates", a.Rows[0][0], table, a.Rows[0][1])
}
