// Package durable writes small files that are whole or not there, also when
// power fails in between.
package durable
