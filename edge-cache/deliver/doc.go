// Package deliver answers GET and HEAD from bytes that are here or still
// arriving: conditions (RFC 9110 section 13), ranges (section 14), and a body
// that moves or ends its connection.
package deliver
