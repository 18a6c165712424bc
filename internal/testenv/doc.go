// Package testenv gives tests real servers: PostgreSQL, a NATS server with
// JetStream, and MinIO.
//
// Servers start when first asked for and serve the whole test process; every
// test gets a database and bucket names of its own. Under `make test` one
// PostgreSQL and three MinIO servers are shared by all packages (withservers
// starts them and names them in MERIDIAN_TEST_POSTGRES and MERIDIAN_TEST_S3).
//
// A server never outlives the process that started it, however that ends: each
// runs below a shell that waits for the end of a pipe the process holds, then
// kills the server and removes its files. Nothing here leaves goroutines, so
// goleak needs no exceptions. A missing program fails the test and says what to
// run; tests are never skipped.
package testenv
