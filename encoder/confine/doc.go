// Package confine starts processes that read what strangers sent so that they can
// harm nothing when it takes them over.
//
// What a child may do, where this machine and the worker's rights allow it:
//
//   - It is another user, without groups, capabilities, or a way to gain any. A
//     worker that isn't root gives its children its own user, without capabilities.
//   - It reaches one TCP port, the one of the worker's own server. In a worker that
//     may make network namespaces, the two are alone in one; elsewhere Landlock and
//     seccomp keep the child from any other port, address family and protocol.
//   - It reads and executes the system's programs and libraries, and writes into one
//     directory of its own, if it has one (Landlock). It signals and traces none but
//     its own.
//   - It makes no namespaces and none of the calls that have most often been a way
//     around such rules (seccomp).
//
// A thread is made for each child, takes all this upon itself, starts the child, which
// inherits it, and ends with it: nothing runs between the worker and the child, and a
// start takes no longer.
//
// Failure. A layer that isn't to be had is left out and told by Lacks. A child that
// can't be started with those that are is an error, never less confined.
package confine
