// Package playertest watches the player in a real Chromium, for tests that
// count frames and stalls.
//
// Each page is a browser of its own with a fresh profile, ended with the test.
// What the page shows and measures comes from its window.meridian object.
// navigator.onLine is overridden: in a network namespace without a default
// interface it is false, and hls.js would wait for a connection it has.
//
// On failure every wait fails the test with the player's whole state and what
// the browser complained about.
package playertest
