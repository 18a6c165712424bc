// Package viewers has tests that watch real video on three isolated regions which
// are lost and brought back (root).
package viewers
