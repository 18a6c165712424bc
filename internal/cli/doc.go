// Package cli turns the subcommand table of main.go into a process: it parses
// flags, environment and --config file, wires signals to the context every
// command runs under, and prints a failing command's error with what to do next.
//
// Exit codes: 0 success, 1 the command failed, 2 it was called wrongly,
// 130 a second signal ended it at once.
package cli
