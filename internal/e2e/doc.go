// Package e2e proves the platform end to end: its tests build the binary, start
// a region with `meridian up` as an operator would, upload with the command
// line as a creator would, and watch in a real Chromium as a viewer would, while
// processes are killed and stopped under them.
package e2e
