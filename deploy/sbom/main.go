// Command sbom writes a bill of materials of container images, one CycloneDX 1.5
// document (https://cyclonedx.org/docs/1.5/json/) each: Debian's packages as the
// image's dpkg knows them, and the Go modules the programs in /usr/local/bin were
// built from. Equal images give equal bytes.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// timeout bounds each call of docker, maxProgram what is read of one program.
	timeout    = 2 * time.Minute
	maxProgram = 1 << 30
)

func main() {
	docker := flag.String("docker", "docker", "the docker `program`")
	out := flag.String("out", "dist/sbom", "`directory` for the documents")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *docker, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, docker, out string, images []string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, image := range images {
		doc, err := describe(ctx, docker, image)
		if err != nil {
			return fmt.Errorf("%s: %w", image, err)
		}
		b, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(filepath.Base(image), ":")
		if err := os.WriteFile(filepath.Join(out, name+".cdx.json"), append(b, '\n'), 0o644); err != nil {
			return err
		}
		fmt.Printf("sbom: %s: %d components\n", image, len(doc.Components))
	}
	return nil
}

// Document is the part of CycloneDX that is written.
type Document struct {
	Format      string      `json:"bomFormat"`
	SpecVersion string      `json:"specVersion"`
	Version     int         `json:"version"`
	Metadata    Metadata    `json:"metadata"`
	Components  []Component `json:"components"`
}

// Metadata names what the document is about.
type Metadata struct {
	Component Component `json:"component"`
}

// Component is a package, module or image.
type Component struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// PURL is its package URL.
	PURL string `json:"purl,omitempty"`
}

func describe(ctx context.Context, docker, image string) (*Document, error) {
	id, err := call(ctx, docker, "image", "inspect", "--format", "{{.Id}}", image)
	if err != nil {
		return nil, err
	}
	doc := &Document{Format: "CycloneDX", SpecVersion: "1.5", Version: 1,
		Metadata: Metadata{Component{Type: "container", Name: image, Version: strings.TrimSpace(string(id))}}}
	dpkg, err := call(ctx, docker, "run", "--rm", "--network", "none", "--entrypoint", "dpkg-query", image, "-W", "-f", "${Package} ${Version} ${Architecture}\n")
	if err != nil {
		return nil, err
	}
	if doc.Components, err = debianPackages(string(dpkg)); err != nil {
		return nil, err
	}
	container, err := call(ctx, docker, "create", image)
	if err != nil {
		return nil, err
	}
	name := strings.TrimSpace(string(container))
	programs, err := call(ctx, docker, "cp", name+":/usr/local/bin", "-")
	if _, rerr := call(context.WithoutCancel(ctx), docker, "rm", name); err == nil {
		err = rerr
	}
	if err != nil {
		return nil, err
	}
	modules, err := goModules(bytes.NewReader(programs))
	if err != nil {
		return nil, err
	}
	doc.Components = append(doc.Components, modules...)
	slices.SortFunc(doc.Components, func(a, b Component) int { return strings.Compare(a.PURL, b.PURL) })
	doc.Components = slices.Compact(doc.Components)
	return doc, nil
}

// debianPackages reads lines of name, version and architecture.
func debianPackages(list string) ([]Component, error) {
	var out []Component
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("dpkg-query: %q: want name, version and architecture", line)
		}
		out = append(out, Component{Type: "library", Name: f[0], Version: f[1],
			PURL: "pkg:deb/debian/" + f[0] + "@" + url.PathEscape(f[1]) + "?arch=" + f[2]})
	}
	return out, nil
}

// goModules reads the modules of every Go program in a tar archive.
func goModules(r io.Reader) ([]Component, error) {
	var out []Component
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("programs: %w", err)
		}
		if h.Typeflag != tar.TypeReg || h.Size > maxProgram {
			continue
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		info, err := buildinfo.Read(bytes.NewReader(b))
		if err != nil {
			continue // not a Go program
		}
		out = append(out, module("stdlib", strings.TrimPrefix(info.GoVersion, "go")))
		for _, d := range append([]*debug.Module{&info.Main}, info.Deps...) {
			if d.Replace != nil {
				d = d.Replace
			}
			out = append(out, module(d.Path, d.Version))
		}
	}
}

func module(path, version string) Component {
	purl := "pkg:golang/" + path
	if version != "" && version != "(devel)" {
		purl += "@" + version
	}
	return Component{Type: "library", Name: path, Version: version, PURL: purl}
}

func call(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
