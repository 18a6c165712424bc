// Package operate runs the commands of documents in docs/operate on a platform of
// three regions: keys are rotated, regions upgraded and added, and in the end
// everything but the secrets is lost and restored.
package operate
