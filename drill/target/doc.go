// Package target is what a drill does things to: a running platform with
// several regions. A Target says where everything is, what places viewers can
// watch from, how regions are, and makes and undoes faults.
//
// Platform is a `meridian up` of this machine, isolated or on loopback
// addresses, reached through its state directory.
//
// A fault is undone by Heal whatever has become of it meanwhile; Heal returns
// when the platform says that what was lost is back, or why it isn't.
package target
