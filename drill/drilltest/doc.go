// Package drilltest is a platform that exists only to be drilled in tests: three
// regions on loopback addresses in this process, with routers, name servers,
// edges and APIs that say and serve just enough for viewers and creators.
//
// It can lose regions as a real one does, and it can be broken on purpose, so
// that tests can show that a drill fails when it must.
package drilltest
