// Package proc tells benchmarks what the processes they compare cost: processor
// time and memory, as Linux counts them under /proc.
//
// Servers may be several processes, so all is asked of a process and those below it.
// A process that ends meanwhile is left out; its time is then its parent's, once
// the parent has waited for it.
package proc
