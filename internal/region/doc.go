// Package region holds the region table: the one list of regions, their
// places, public addresses and round-trip times that every component reads.
//
// A Table is immutable after Load. Order in the file is the operator's order of
// preference and breaks ties everywhere (equal round-trip times, unknown viewer
// locations). A table with an error never reaches a component: Load reports
// every problem at once.
package region
