// Package platform is `meridian up`: one or more regions on one machine, each a
// group of processes on addresses of its own (etcd, PostgreSQL under Patroni,
// NATS with JetStream, MinIO, then Meridian's services), as they would run on
// machines of their own. Nothing but the shared region table tells them of each
// other.
//
// All state lies in one directory, which one `up` at a time holds by a lock.
// Starting again continues it; --fresh wipes it, and only a directory that
// carries our mark is ever wiped. What an earlier run left running is killed
// first. Anything in the way of a start (a port in use, a data directory of
// another PostgreSQL, other regions than before, a full disk) is found before
// the first process starts and said together with what to do.
//
// A region has one of two places. On loopback addresses its processes are a group
// of our supervisor. Isolated, it has a PID and a network namespace in a network
// of internal/wan, and a first process of its own there, an agent that supervises
// the others and ends them with itself: what dies of a region dies at once.
// Either can be killed, hung, stopped and started while the others run, the
// isolated also be silenced, through a socket in the state directory. Nothing of
// a region killed or stopped on purpose is started again before it is asked for;
// one whose agent dies by itself is. One operation at a time changes a region;
// killing or stopping it interrupts its start. A region is said to be back when
// PostgreSQL follows its leader up to where that was, JetStream is current and
// everything is ready.
//
// Starting goes by readiness: stores, then what they must hold (database, role,
// buckets), then services. A process that crashes is restarted and it is said.
// Stopping goes the other way, so that nothing loses what it stands on before it
// has drained.
package platform
