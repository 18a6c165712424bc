// Package cmd holds the commands that use the API: `meridian upload` and
// `meridian assets`. They print for people, or with --json one JSON document a
// line for programs; what went wrong says what to do next.
package cmd
