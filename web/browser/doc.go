// Package browser opens pages in a real Chromium and asks them: tests, benchmarks
// and drills watch the player with it. It wants the package chromium, or CHROMIUM
// in the environment.
//
// Each Browser is a process of its own with a fresh profile. What our player shows
// and measures comes from its window.meridian object. navigator.onLine is
// overridden: in a network namespace without a default interface it is false, and
// hls.js would wait for a connection it has.
package browser
