// Package tools finds the programs that Meridian runs beside itself: those it
// builds from pinned sources (each in a module of its own below this directory,
// so that their dependencies never meet ours) and those of the distribution.
//
// Built programs lie in the cache directory, outside the checkout, under names
// that hold their version: an upgrade builds anew, checkouts with different
// pins share the cache, and an unfinished build is never seen. Nothing here
// searches for "some" version: a program that is missing is an error that says
// what to run.
package tools
