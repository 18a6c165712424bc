package cmd

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"

	"github.com/meridian-video/meridian/internal/client"
)

// assetFailure is an asset that can't be played.
type assetFailure struct {
	asset string
	client.Failure
}

func (f *assetFailure) Error() string { return f.Code + ": " + f.Detail }

// explain says what went wrong with what, and what to do next.
func explain(err error, what string) error {
	what = filepath.Base(what)
	var failure *assetFailure
	var p *client.Problem
	var network net.Error
	switch {
	case errors.As(err, &failure):
		next := "check the file plays on this machine, export it again (H.264 or H.265 in MP4 always works) and upload that"
		switch failure.Code {
		case "internal":
			next = "run the same command again; if it stays, give the operator asset " + failure.asset
		case "unknown-profile":
			next = "run the same command with a --profile that there is, or without one"
		}
		return fmt.Errorf("%s failed: %w\n  Next: %s", what, err, next)
	case errors.As(err, &p):
		return fmt.Errorf("%s: %w%s", what, err, afterProblem(p))
	case errors.As(err, &network):
		return fmt.Errorf("%s: the API can't be reached: %w\n  Next: start the platform with `meridian up`, or name its API with --api or MERIDIAN_API", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func afterProblem(p *client.Problem) string {
	next := ""
	switch {
	case p.Status == http.StatusUnauthorized:
		next = "set MERIDIAN_API_KEY or --api-key; `meridian up` prints a key and writes it to ~/.config/meridian/client.yaml"
	case p.Status == http.StatusForbidden:
		next = "use an API key with a role that may do this"
	case p.Status == http.StatusNotFound:
		next = "list what there is with `meridian assets list`"
	case p.Code == "upload-too-large":
		next = "upload a smaller file, or have the operator raise --upload-max-bytes"
	case p.Status == http.StatusServiceUnavailable || p.Status >= http.StatusInternalServerError:
		next = "run the same command again in a moment; what was received is kept"
	default:
		return ""
	}
	return "\n  Next: " + next
}
