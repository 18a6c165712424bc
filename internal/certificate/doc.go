// Package certificate has the certificates that programs answer TLS with: from
// files, or shared between the regions, and follows both while they change. It also
// has the platform's own authorities: of the stores, and of development.
//
// Shared certificates, their private keys, the CA account, the locks of those who
// order and the answers to the CA's challenges are one state, in the certificates
// journal of the object stores. Entries are sealed with a key that routers, edges
// and APIs have and the stores don't. Package order orders certificates; this one
// only reads, but for Shared.Change.
//
// Invariants
//
//   - A certificate in use is replaced only by one that parses, fits its key and
//     was issued later. One that vanishes from the state stays in use.
//   - A state is changed only from the newest there is: of two who change it at
//     once one is told to look again.
//
// Failure behaviour: while no region's store answers, what is known serves on. An
// entry that can't be opened is journal.ErrSealed, and changes nothing.
package certificate
