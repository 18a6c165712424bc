// Command meridian is the whole platform in one binary.
package main

import (
	"os"

	"github.com/meridian-video/meridian/api"
	"github.com/meridian-video/meridian/deploy"
	"github.com/meridian-video/meridian/drill"
	edgecache "github.com/meridian-video/meridian/edge-cache"
	"github.com/meridian-video/meridian/encoder"
	"github.com/meridian-video/meridian/geodns"
	"github.com/meridian-video/meridian/internal/cli"
	"github.com/meridian-video/meridian/internal/client/cmd"
	"github.com/meridian-video/meridian/internal/hls/validate"
	"github.com/meridian-video/meridian/internal/jobs"
	"github.com/meridian-video/meridian/internal/keyset"
	"github.com/meridian-video/meridian/internal/objects/archive"
	"github.com/meridian-video/meridian/internal/objects/repair"
	"github.com/meridian-video/meridian/internal/platform"
)

// commands is the table of subcommands; each type's Run method does the work.
type commands struct {
	Up          platform.Command       `cmd:"" help:"Start the platform on this machine: every region and its stores."`
	Status      platform.StatusCommand `cmd:"" help:"Show the processes of the platform running here."`
	Region      platform.RegionCommand `cmd:"" help:"Kill, hang, silence, stop and start regions of the platform running here."`
	RegionAgent platform.AgentCommand  `cmd:"" hidden:""`
	Jobs        jobs.Command           `cmd:"" help:"Show the encoders' work; give what failed another chance."`
	Reconcile   repair.Command         `cmd:"" help:"Compare all object stores with the catalog: what is missing, foreign or wrong."`
	Archive     archive.Command        `cmd:"" help:"Keep a copy of all objects outside of the platform, and bring it back."`
	Drill       drill.Command          `cmd:"" help:"Lose parts of the running platform on purpose, and see what viewers and creators notice."`
	Upload      cmd.Upload             `cmd:"" help:"Upload videos and follow them until they can be watched."`
	Assets      cmd.Assets             `cmd:"" help:"List, show and delete assets."`
	Tokens      cmd.Tokens             `cmd:"" help:"Make and revoke playback tokens."`
	Keys        keyset.Command         `cmd:"" help:"Show, rotate and revoke the keys that sign tokens and records."`
	HLS         validate.Command       `cmd:"" name:"hls" help:"Check published streams."`
	Provision   deploy.Command         `cmd:"" help:"Make keys, certificates and the stores' configuration of a platform on several machines."`
	API         api.Command            `cmd:"" name:"api" help:"Run a region's HTTP API."`
	Encoder     encoder.Command        `cmd:"" help:"Run an encoding worker."`
	GeoDNS      geodns.Commands        `cmd:"" name:"geodns" help:"Run a region's router: DNS, redirects, steering and player pages; drain regions, explain decisions."`
	EdgeCache   edgecache.Command      `cmd:"" help:"Run an edge cache."`
	Cache       edgecache.ProxyCommand `cmd:"" help:"Run an HTTP cache in front of any origin."`
}

func main() { os.Exit(cli.Main(edgecache.Args(os.Args[1:]), &commands{})) }
