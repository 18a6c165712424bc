// Command pertitle compares per-title encoding with the ordinary ladder on simple,
// ordinary and complex videos. Each is planned and encoded twice by the encoder
// itself, over a store and a queue in memory, and every rung that comes out is
// compared with its source, in the source's size.
//
// It prints what all rungs take together, the quality of the rungs both ladders
// have, what line a viewer needs for the quality of each ordinary rung, and what
// encoding and planning cost.
package main
