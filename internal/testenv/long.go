package testenv

import (
	"fmt"
	"os"
	"testing"
)

// Long skips the test outside of `make test-long`: for the full counts of what
// the ordinary tests show with a few.
func Long(t testing.TB) {
	t.Helper()
	if !IsLong() {
		t.Skip("a long test; `make test-long` runs it")
	}
}

// IsLong says whether `make test-long` runs, for tests with more steps then.
func IsLong() bool { return os.Getenv("MERIDIAN_TEST_LONG") != "" }

// FigurePrefix begins the log lines that reports collect.
const FigurePrefix = "figure: "

// Figure logs a measured value for the report of `make test-long`.
func Figure(t testing.TB, name, format string, a ...any) {
	t.Helper()
	t.Log(FigurePrefix + name + ": " + fmt.Sprintf(format, a...))
}
