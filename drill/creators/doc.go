// Package creators is people who upload videos and change their titles while
// regions are lost, and who remember what they were told: an upload that was
// acknowledged must become ready, a title that was acknowledged must stay.
//
// Uploaders use the client of the command line, which goes on in another region
// where one fails. Writers ask one region's API each, with plain requests, and
// so see what that region can do. Both are bounded in number, pace and memory,
// and delete what they made when asked to.
package creators
