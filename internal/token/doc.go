// Package token holds the platform's keys and everything signed with them:
// the key set, playback and session tokens, and signed journal entries.
//
// Trust starts at one Ed25519 root key, whose public half is in the
// configuration of every edge and router. The root signs key sets; a key set
// names the keys that may sign playback tokens, records and sessions. A
// signature counts only when its key is in the newest key set, has the use the
// verifier asks for, is within its time and isn't revoked. The algorithm is
// always EdDSA (RFC 8037); a token's own header never chooses another.
package token
