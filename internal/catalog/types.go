package catalog

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/meridian-video/meridian/internal/hls"
	"github.com/meridian-video/meridian/internal/objects"
	"github.com/meridian-video/meridian/internal/playback"
)

// State of an asset.
type State string

// States in their order; Failed ends any of them but Ready.
const (
	Waiting   State = "waiting"
	Uploading State = "uploading"
	Received  State = "received"
	Playable  State = "playable"
	Ready     State = "ready"
	Failed    State = "failed"
)

// RunState is the state of one encode of an asset.
type RunState string

// States of a run.
const (
	RunPlanned   RunState = "planned"
	RunEncoding  RunState = "encoding"
	RunPlayable  RunState = "playable"
	RunComplete  RunState = "complete"
	RunFailed    RunState = "failed"
	RunCancelled RunState = "cancelled"
	// RunReplaced was complete until another run of the asset was.
	RunReplaced RunState = "replaced"
)

// Failure says why something failed, in a form programs and people can use.
type Failure struct {
	// Code is a short kebab-case name: "not-a-video", "upload-expired", "internal".
	Code string `json:"code"`
	// Detail is a sentence for people.
	Detail string `json:"detail"`
}

// InternalFailure is the code of failures that are no fault of the source.
const InternalFailure = "internal"

// BuildFailure is the code of runs whose build is gone, and that no other can go on with:
// another run begins.
const BuildFailure = "encoder-changed"

// Asset is one video or audio item.
type Asset struct {
	ID         string
	Owner      string
	Title      string
	State      State
	Failure    *Failure
	Visibility playback.Visibility
	Placement  objects.Placement
	// Region is where it was created.
	Region string
	// Size in bytes, 0 until declared; SHA256 of the whole source, nil if unknown.
	Size   int64
	SHA256 []byte
	// Duration is 0 until planned.
	Duration time.Duration
	// CurrentRun is the run viewers see, 0 until one is playable.
	CurrentRun int
	// Poster is the path of a picture below the asset's objects, empty until it is made.
	Poster    string
	CreatedAt time.Time
	ReceivedAt, PlayableAt, ReadyAt, FailedAt,
	DeletedAt *time.Time
	// Progress of upload and encode; filled by GetAsset.
	Progress Progress
}

// Progress of an asset's upload and of its newest run.
type Progress struct {
	BytesReceived int64 `json:"bytes_received"`
	BytesTotal    int64 `json:"bytes_total"`
	FramesDone    int64 `json:"frames_done"`
	FramesTotal   int64 `json:"frames_total"`
	// SecondsLeft is how long the encode goes on at the pace it has had; nil while
	// that can't be told.
	SecondsLeft *int64 `json:"seconds_left"`
}

// Upload is one resumable upload of an asset's source.
type Upload struct {
	ID    string
	Asset string
	Owner string
	// State is "open", "finished" or "failed".
	State string
	// Size is the declared length, -1 while deferred.
	Size int64
	// Received is the offset: bytes acknowledged. Parts is how many hold them,
	// so also the number of the next.
	Received              int64
	Parts                 int
	Filename, ContentType string
	Metadata              map[string]string
	Placement             objects.Placement
	CreatedAt, ExpiresAt  time.Time
}

// Part is one stored piece of a source.
type Part struct {
	// N counts from 0; ID fences the object's key.
	N  int
	ID string
	// Start is the offset of the part's first byte in the source.
	Start, Size int64
	SHA256      []byte
	// Regions acknowledged the PUT.
	Regions []string
}

// Source is what the parts of an upload amount to.
type Source struct {
	Asset, Filename, ContentType string
	// Size is the declared length, -1 while unknown. Complete means all parts are there.
	Size      int64
	Complete  bool
	Parts     []Part
	Placement objects.Placement
}

// Key returns the object key of a part.
func (s Source) Key(p Part) string { return objects.PartKey(s.Asset, p.N, p.ID) }

// Role is what an API key may do.
type Role string

// Roles, each including the ones before it.
const (
	RoleRead  Role = "read"
	RoleWrite Role = "write"
	RoleAdmin Role = "admin"
)

// Allows reports whether r includes what want allows.
func (r Role) Allows(want Role) bool {
	rank := map[Role]int{RoleRead: 1, RoleWrite: 2, RoleAdmin: 3}
	return rank[r] >= rank[want] && rank[want] > 0
}

// APIKey identifies a caller.
type APIKey struct {
	ID, Owner, Name string
	// Prefix is the key's beginning, to recognise it by.
	Prefix    string
	Role      Role
	CreatedAt time.Time
	RevokedAt *time.Time
}

// PlanState says how much of its source a plan is of.
type PlanState string

// States of a plan. One that grows is of a source whose frames are known only as they
// arrive: chunks and tracks follow, and nothing of the run is shown. One that is offered
// grows, too, but its source is complete and all its tracks are there: what is encoded is
// shown. Should the run of one that has grown fail, another begins, for which the source is
// judged anew.
const (
	PlanWhole   PlanState = ""
	PlanGrowing PlanState = "growing"
	PlanOffered PlanState = "offered"
	PlanGrown   PlanState = "grown"
)

// Grows says that more of the plan follows.
func (s PlanState) Grows() bool { return s == PlanGrowing || s == PlanOffered }

// Plan is what a run encodes, fixed before its first chunk unless it grows. Fields named
// Encoder are the encoder's own and opaque to everybody else.
type Plan struct {
	// Target is EXT-X-TARGETDURATION in seconds.
	Target int `json:"target"`
	// DurationMS of the whole source in milliseconds; while the plan grows, what its
	// container says.
	DurationMS int64 `json:"duration_ms"`
	// Frames is the number of source video frames, 0 without video.
	Frames  int64           `json:"frames"`
	Tracks  []PlanTrack     `json:"tracks"`
	Encoder json.RawMessage `json:"encoder,omitempty"`
	State   PlanState       `json:"-"`
}

// planFields are a Plan's but for its state.
type planFields Plan

// storedPlan is a plan as it is stored. Its state is booleans: the first version that had
// such plans wrote and read two of them, of which at most one is true, and a version that
// does may run beside this one. To it a plan that is offered is one that grows. Queries ask
// for "growing", too.
type storedPlan struct {
	planFields
	Growing bool `json:"growing,omitempty"`
	Offered bool `json:"offered,omitempty"`
	Grown   bool `json:"grown,omitempty"`
}

// MarshalJSON writes the stored form.
func (p Plan) MarshalJSON() ([]byte, error) {
	switch p.State {
	case PlanWhole, PlanGrowing, PlanOffered, PlanGrown:
	default:
		return nil, fmt.Errorf("plan's state %q is unknown", p.State)
	}
	return json.Marshal(storedPlan{planFields: planFields(p), Growing: p.State.Grows(), Offered: p.State == PlanOffered, Grown: p.State == PlanGrown})
}

// UnmarshalJSON reads the stored form.
func (p *Plan) UnmarshalJSON(b []byte) error {
	s := storedPlan{planFields: planFields(*p)}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*p = Plan(s.planFields)
	switch {
	case s.Growing && s.Offered:
		p.State = PlanOffered
	case s.Growing:
		p.State = PlanGrowing
	case s.Grown:
		p.State = PlanGrown
	default:
		p.State = PlanWhole
	}
	return nil
}

// PlanTrack is what is encoded together.
type PlanTrack struct {
	// ID is "v0", "v1", "vc", "a0", "a1" or "t0", "t1".
	ID   string   `json:"id"`
	Kind hls.Kind `json:"kind"`
	// Late tracks aren't needed for an asset to be playable; they join a later master.
	Late bool `json:"late,omitempty"`
	// Timescale of the track's records and of Chunks.
	Timescale int64 `json:"timescale"`
	// Renditions of the track. Codecs may be left for the first chunk to tell,
	// Bandwidth is the cap.
	Renditions []hls.Rendition `json:"renditions"`
	// Chunks of a video track; each, with those joined to it, becomes a task. An
	// audio or text track is one task. A task commits its chunks as it advances.
	Chunks []PlanChunk `json:"chunks,omitempty"`
	// Needs is as in PlanChunk, of an audio or text track's task.
	Needs   int64           `json:"needs,omitempty"`
	Encoder json.RawMessage `json:"encoder,omitempty"`
}

// PlanChunk is one record's share of a video track: source times [Start, End) in
// the track's timescale.
type PlanChunk struct {
	// Joined chunks are done by the task of the chunk before them.
	Joined bool `json:"joined,omitempty"`
	// Joins is, in a task's spec, how many chunks are joined to this one.
	Joins    int   `json:"joins,omitempty"`
	Start    int64 `json:"start"`
	End      int64 `json:"end"`
	Frames   int64 `json:"frames"`
	Segments int   `json:"segments"`
	// Needs is how many bytes of the source must be there, when the plan was made
	// before all were. Its task waits for them; one with joined chunks until those of
	// its first half can be done.
	Needs   int64           `json:"needs,omitempty"`
	Encoder json.RawMessage `json:"encoder,omitempty"`
}

// Class orders tasks: First before Ladder before Extra.
type Class string

// The classes.
const (
	First  Class = "first"
	Ladder Class = "ladder"
	Extra  Class = "extra"
)

// Classes in order of preference.
var Classes = []Class{First, Ladder, Extra}

// Kind is what a task does.
type Kind string

// The kinds of tasks.
const (
	KindPlan    Kind = "plan"
	KindVideo   Kind = "video"
	KindAudio   Kind = "audio"
	KindText    Kind = "text"
	KindExtra   Kind = "extra"
	KindCleanup Kind = "cleanup"
)

// Task is a piece of work, claimed by one attempt at a time.
type Task struct {
	ID    string
	Asset string
	// Run counts an asset's runs from 1; RunName is its form in keys.
	Run   int
	Owner string
	Class Class
	Kind  Kind
	// Track and Chunk of video and audio tasks.
	Track string
	Chunk int
	// Spec is the first PlanChunk for video tasks, else empty.
	Spec json.RawMessage
	// Attempt fences results; Failures counts attempts that ended badly.
	Attempt, Failures int
	// Lost says that the last of the failures tells nothing of the source: the worker stopped
	// renewing its lease.
	Lost      bool
	Placement objects.Placement
}

// RunName is the run's id in object keys and records.
func (t Task) RunName() string { return hls.RunName(t.Run) }

// Event types.
const (
	EventCreated   = "created"
	EventUploading = "uploading"
	EventReceived  = "received"
	EventPlanned   = "planned"
	EventProgress  = "progress"
	EventPlayable  = "playable"
	EventReady     = "ready"
	EventFailed    = "failed"
	EventChanged   = "changed"
	EventDeleted   = "deleted"
	// A run that was to replace a ready asset's begins; ends without having done so.
	EventEncoding  = "encoding"
	EventCancelled = "cancelled"
)

// Event tells that something about an asset became visible.
type Event struct {
	// ID is the outbox row's number; it grows over an asset's events.
	ID    int64  `json:"id"`
	Type  string `json:"type"`
	Asset string `json:"asset"`
	Owner string `json:"owner"`
	// State the asset was in when the event became visible.
	State    State     `json:"state"`
	Run      string    `json:"run,omitempty"`
	Time     time.Time `json:"time"`
	Failure  *Failure  `json:"failure,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
}
