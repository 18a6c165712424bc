// Package report writes down what a drill showed: as JSON, which is the whole of
// it, as JUnit XML for CI, as one HTML page for people, which needs nothing but
// itself, and as a table for terminals. Diff compares two reports.
package report
