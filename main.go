// Command meridian is the whole platform in one binary.
package main

import (
	"os"

	"github.com/meridian-video/meridian/internal/cli"
)

// commands is the table of subcommands; each type's Run method does the work.
type commands struct {
}

func main() { os.Exit(cli.Main(os.Args[1:], &commands{})) }
