// Package client is a Go client of the HTTP API, as the command line uses it:
// assets, resumable uploads over tus, and following an asset until it plays.
//
// It is given the URLs of one or more regions and goes on with the next when one
// doesn't answer; an upload continues there where it stands. What can be repeated
// is repeated with growing pauses, honouring Retry-After, until it works or
// nothing has moved for a while. Errors the API explains are *Problem.
package client
