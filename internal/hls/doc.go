// Package hls holds the formats between encoder and edge: records (what an
// encoder committed), master and media playlists composed from them, their
// expansion over pathways, and the content steering manifest.
//
// Everything here is a pure function of its input: the same records give the
// same bytes in every region. Playlists follow RFC 8216bis; a media playlist
// only ever grows, and stays of type EVENT when it has ended.
package hls
