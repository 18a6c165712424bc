// Package web holds the player: a page rendered here around a script and a
// style sheet built by Vite from src/ and embedded from dist/.
//
// Player renders the page of a video; one that can't be played yet says so,
// asks again and starts by itself. Problem renders what went wrong and what
// happens next. Assets serves the bundle under /assets/.
//
// Invariants: pages are never cached, assets have a hash in their name and are
// cached for good. Nothing of a page's data is ever markup or script: it is in a
// JSON data block, escaped by html/template, and the content security policy
// allows scripts from our own origin only, none inline. Connections are allowed
// to the routers and edges the page names and nowhere else.
//
// On failure: the page needs one router to be rendered, then none in
// particular. The script goes round all routers for the master playlist and for
// steering, and over all pathways for everything else.
//
// dist/ is committed, so that building the binary needs no Node.js; rebuild it
// with `npm ci && npm run build` in this directory.
package web
