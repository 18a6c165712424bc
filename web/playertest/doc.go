// Package playertest watches the player in a real Chromium, for tests that
// count frames and stalls. Tests that need a browser fail when there is none; it is
// part of what is tested.
//
// Each page ends with its test. On failure every wait fails the test with the
// player's whole state and what the browser complained about.
package playertest
