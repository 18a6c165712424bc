// Package browsers is the real players of a drill: the router's watch page in
// Chromium, at a viewer's place, beside the fleet's simulated viewers.
//
// A browser tells what happened to it as fleet events: first picture, edges,
// stalls as the page counts them (half a second without progress on an empty
// buffer). It is the proof that what the fleet models is what players do.
package browsers
