// Package patroni holds the program that runs Patroni, with corrections that the
// versions of current distributions lack.
package patroni

import _ "embed"

// Interpreter runs Program; it is the one Debian's patroni package is for.
const Interpreter = "/usr/bin/python3"

// Program takes Patroni's arguments.
//
//go:embed run_patroni.py
var Program []byte
