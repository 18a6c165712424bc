package browser

import "strings"

// State is the player's window.meridian object, see web/src/state.ts.
type State struct {
	Edge           string   `json:"edge"`
	Place          string   `json:"place"`
	Pathway        string   `json:"pathway"`
	Pathways       []string `json:"pathways"`
	Steering       string   `json:"steering"`
	SteeringLoads  int      `json:"steeringLoads"`
	RouterFailures int      `json:"routerFailures"`
	Stalls         int      `json:"stalls"`
	StallSeconds   float64  `json:"stallSeconds"`
	Freezes        int      `json:"freezes"`
	Frames         int      `json:"frames"`
	Dropped        int      `json:"dropped"`
	Level          int      `json:"level"`
	Levels         int      `json:"levels"`
	Height         int      `json:"height"`
	Bitrate        float64  `json:"bitrate"`
	Bandwidth      float64  `json:"bandwidth"`
	Position       float64  `json:"position"`
	Duration       float64  `json:"duration"`
	Ahead          float64  `json:"ahead"`
	Playing        bool     `json:"playing"`
	Ended          bool     `json:"ended"`
	Growing        bool     `json:"growing"`
	Switches       int      `json:"switches"`
	Rungs          int      `json:"rungs"`
	Errors         int      `json:"errors"`
	LastError      string   `json:"lastError"`
	Recoveries     int      `json:"recoveries"`
	Notice         string   `json:"notice"`
	Engine         string   `json:"engine"`
	Log            Log      `json:"log"`
}

// Log is what the player noted last, one line for each event.
type Log []string

// String has each line on a line of its own.
func (l Log) String() string { return "\n\t" + strings.Join(l, "\n\t") + "\n" }

// State is the player's state now; the zero State before there is a player.
func (b *Browser) State() (State, error) { return Evaluate[State](b, `window.meridian ?? {}`) }
