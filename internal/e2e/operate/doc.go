// Package backup runs the commands of docs/operate/backup.md: a platform is
// backed up, loses everything but its secrets, and is restored as it was at a time.
package operate
