// Package supervise runs groups of processes: it starts them, waits until they
// are ready, restarts those that crash, stops them in a chosen order, and sees
// to it that none outlives the supervisor, however that ends.
//
// Four things together keep that promise. Every child gets SIGKILL when its
// supervisor dies (PDEATHSIG; all are started from one thread which lives as
// long as the supervisor, for the kernel watches the thread). Grandchildren that
// leave their process group, as PostgreSQL does, become the supervisor's own
// children (it is a subreaper). A guard, a small shell which waits for the end
// of a pipe, kills whatever carries the supervisor's mark in its environment.
// And a new supervisor with the same mark first kills what is left of an earlier
// one. Linux only.
//
// A process owns its state; it is restarted with a backoff that doubles up to
// half a minute and starts anew once it has run for that long. Nothing is
// restarted after Stop or Kill.
package supervise
