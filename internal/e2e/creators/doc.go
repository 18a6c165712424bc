// Package creators proves what creators are promised while regions are lost: its
// tests build the binary, start three regions with `meridian up` as an operator
// would, upload to all of them, and kill, hang and wipe regions under the uploads.
// Whoever was told that bytes are received sees a video become ready, and
// `meridian reconcile` finds every object where it belongs.
package creators
