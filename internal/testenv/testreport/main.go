// Command testreport reads the output of `go test -json`, shows it as go test
// does without -v, and adds a section to a report: what ran, how long it took,
// and the figures that tests logged with testenv.Figure.
//
//	go test -json ./... | testreport -title "All packages" docs/reports/test-long.md
//
// It fails when a test failed or the input ends within one.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/meridian-video/meridian/internal/testenv"
)

// event is one line of `go test -json`, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
	// Elapsed in seconds.
	Elapsed float64
}

// pkg is what is known of one package.
type pkg struct {
	name, result            string
	passed, failed, skipped int
	elapsed                 float64
}

type report struct {
	packages []*pkg
	figures  []figure
	// output of tests that have not ended, by package and test.
	output map[string][]string
	failed []string
}

type figure struct{ pkg, test, text string }

const module = "github.com/meridian-video/meridian"

func main() {
	title := flag.String("title", "Tests", "heading of the section")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: testreport [-title TITLE] FILE")
		os.Exit(2)
	}
	if err := run(os.Stdin, os.Stdout, flag.Arg(0), *title, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, file, title string, now time.Time) error {
	r := report{output: map[string][]string{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(out, lines.Text()) // what the toolchain itself says
			continue
		}
		r.add(e, out)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, r.section(title, now))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.verdict()
}

func (r *report) add(e event, out io.Writer) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if _, text, ok := strings.Cut(e.Output, testenv.FigurePrefix); ok && e.Test != "" {
			r.figures = append(r.figures, figure{strings.TrimPrefix(e.Package, module+"/"), e.Test, strings.TrimSpace(text)})
		}
		if e.Test == "" && strings.HasPrefix(e.Output, "---") || e.Output == "PASS\n" {
			return
		}
		r.output[key] = append(r.output[key], e.Output)
	case "pass", "fail", "skip":
		p := r.pkg(e.Package)
		if e.Test == "" {
			p.result, p.elapsed = e.Action, e.Elapsed
			for _, line := range r.output[key] {
				fmt.Fprint(out, line)
			}
			delete(r.output, key)
			return
		}
		switch e.Action {
		case "pass":
			p.passed++
		case "skip":
			p.skipped++
		default:
			p.failed++
			r.failed = append(r.failed, key)
			for _, line := range r.output[key] {
				fmt.Fprint(out, line)
			}
		}
		delete(r.output, key)
	}
}

func (r *report) pkg(name string) *pkg {
	if i := slices.IndexFunc(r.packages, func(p *pkg) bool { return p.name == name }); i >= 0 {
		return r.packages[i]
	}
	p := &pkg{name: name}
	r.packages = append(r.packages, p)
	return p
}

func (r *report) verdict() error {
	bad := slices.Clone(r.failed)
	for _, p := range r.packages {
		if p.result != "pass" && p.result != "skip" {
			bad = append(bad, p.name)
		}
	}
	if len(r.packages) == 0 {
		return errors.New("no package was tested")
	}
	if len(bad) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(bad, ", "))
	}
	return nil
}

func (r *report) section(title string, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s, %s, %d cores: ", title, now.UTC().Format(time.DateOnly), runtime.Version(), runtime.NumCPU())
	var passed, failed, skipped int
	for _, p := range r.packages {
		passed, failed, skipped = passed+p.passed, failed+p.failed, skipped+p.skipped
	}
	fmt.Fprintf(&b, "%d passed, %d failed, %d skipped.\n\n", passed, failed, skipped)
	for _, name := range r.failed {
		fmt.Fprintf(&b, "- failed: %s\n", name)
	}
	if len(r.figures) > 0 {
		b.WriteString("| Figure | Value | Test |\n|---|---|---|\n")
		for _, f := range r.figures {
			name, value, _ := strings.Cut(f.text, ": ")
			fmt.Fprintf(&b, "| %s | %s | %s %s |\n", name, value, f.pkg, f.test)
		}
		b.WriteByte('\n')
	}
	b.WriteString("| Package | Tests | Seconds |\n|---|---|---|\n")
	for _, p := range r.packages {
		if p.passed+p.failed+p.skipped > 0 {
			fmt.Fprintf(&b, "| %s | %d | %.0f |\n", strings.TrimPrefix(p.name, module+"/"), p.passed+p.failed+p.skipped, p.elapsed)
		}
	}
	b.WriteByte('\n')
	return b.String()
}
