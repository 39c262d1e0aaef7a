package test

import (
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCompatibilityKit runs Apache Iceberg's REST Compatibility Kit against
// the catalog at /iceberg. Every test of the kit has to pass, but for those
// that docs/INTEROP.md lists with their reasons; and those have to fail, so
// that the list cannot grow old.
//
// THERMOCLINE_KIT names the folder with the kit's jars (`make kit` fills it).
// THERMOCLINE_KIT_URI names another catalog to run it against.
func TestCompatibilityKit(t *testing.T) {
	t.Parallel()
	jars := os.Getenv("THERMOCLINE_KIT")
	if jars == "" {
		t.Skip("THERMOCLINE_KIT names no folder with the REST Compatibility Kit; make kit fills one")
	}
	uri := os.Getenv("THERMOCLINE_KIT_URI")
	if uri == "" {
		uri = "http://" + startServer(t, release).address + "/iceberg"
	}
	exceptions := kitExceptions(t)
	results := runKit(t, jars, uri)

	var passed, skipped, failed, excepted int
	for _, r := range results {
		reason, known := exceptions[r.name]
		delete(exceptions, r.name)
		switch {
		case r.skipped != "":
			skipped++
			t.Logf("skipped  %s: %s", r.name, r.skipped)
			if known {
				t.Errorf("the kit skips %s, and docs/INTEROP.md says that it fails: remove it there", r.name)
			}
		case r.failure == "":
			passed++
			if known {
				t.Errorf("%s passes, and docs/INTEROP.md says that it fails: remove it there", r.name)
			}
		case known:
			excepted++
			t.Logf("excepted %s: %s", r.name, reason)
		default:
			failed++
			t.Errorf("%s failed:\n%s", r.name, r.failure)
		}
	}
	for name := range exceptions {
		t.Errorf("docs/INTEROP.md lists %s, which the kit does not have", name)
	}
	t.Logf("REST Compatibility Kit: %d tests, %d passed, %d failed, %d skipped by the kit, %d failed as docs/INTEROP.md says",
		len(results), passed, failed, skipped, excepted)
}

// kitResult is what became of one test of the kit: with neither failure nor
// skipped it passed.
type kitResult struct{ name, failure, skipped string }

// runKit runs the whole suite and returns its results, ordered by name.
func runKit(t *testing.T, jars, uri string) []kitResult {
	t.Helper()
	reports := t.TempDir()
	cmd := exec.CommandContext(t.Context(), java(t), "-cp", filepath.Join(jars, "*"),
		"-Drck.local=false", "-Drck.requires-namespace-create=true", "-Drck.supports-serverside-retry=true", "-Drck.overrides-requested-location=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
		"org.junit.platform.console.ConsoleLauncher", "execute",
		"--select-class", "org.apache.iceberg.rest.RESTCompatibilityKitSuite", "--details", "none", "--reports-dir", reports)
	// The kit's catalog takes its properties from the environment.
	cmd.Env = append(os.Environ(), "CATALOG_URI="+uri, "CATALOG_WAREHOUSE=main")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	report, readErr := os.ReadFile(filepath.Join(reports, "TEST-junit-platform-suite.xml"))
	if readErr != nil {
		t.Fatalf("the kit left no report: %v, %v\n%s", err, readErr, out)
	}
	var suite struct {
		Cases []struct {
			Name    string  `xml:"name,attr"`
			Class   string  `xml:"classname,attr"`
			Failure *string `xml:"failure"`
			Error   *string `xml:"error"`
			Skipped *string `xml:"skipped"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal(report, &suite); err != nil {
		t.Fatal(err)
	}
	if len(suite.Cases) < 150 {
		t.Fatalf("the kit's report has %d tests only: %v\n%s", len(suite.Cases), err, out)
	}
	var results []kitResult
	for _, c := range suite.Cases {
		class := c.Class[strings.LastIndexByte(c.Class, '.')+1:]
		r := kitResult{name: strings.TrimPrefix(class, "RESTCompatibilityKit") + "." + strings.Replace(c.Name, "()", "", 1)}
		for _, text := range []*string{c.Failure, c.Error} {
			if text != nil {
				r.failure = firstLines(*text, 12)
			}
		}
		if c.Skipped != nil {
			r.skipped = firstLines(*c.Skipped, 1)
		}
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b kitResult) int { return strings.Compare(a.name, b.name) })
	return results
}

var (
	kitRow  = regexp.MustCompile(`^\| (.*CatalogTests\..*) \| (.+) \|$`)
	kitName = regexp.MustCompile("`([^`]+)`")
)

// kitExceptions are the tests that docs/INTEROP.md says to fail, with the
// reasons.
func kitExceptions(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/INTEROP.md")
	if err != nil {
		t.Fatal(err)
	}
	list := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		row := kitRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			continue
		}
		for _, name := range kitName.FindAllStringSubmatch(row[1], -1) {
			if _, twice := list[name[1]]; twice {
				t.Errorf("docs/INTEROP.md lists %s twice", name[1])
			}
			list[name[1]] = row[2]
		}
	}
	return list
}

// java is the program of a Java installation.
func java(t *testing.T) string {
	t.Helper()
	program := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		program = filepath.Join(home, "bin", "java")
	}
	program, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("engines that run on Java need Java 17 or newer: %v", err)
	}
	return program
}

func firstLines(text string, n int) string {
	lines := strings.SplitAfterN(strings.TrimSpace(text), "\n", n+1)
	return strings.TrimSpace(strings.Join(lines[:min(n, len(lines))], ""))
}
