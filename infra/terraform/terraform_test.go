package terraform

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/stretchr/testify/require"

	"github.com/meridian-video/meridian/deploy"
	"github.com/meridian-video/meridian/internal/region"
)

var (
	declared  = regexp.MustCompile(`(?m)^(variable|output|module) "([a-z0-9_]+)"`)
	resource  = regexp.MustCompile(`(?m)^resource "([a-z0-9_]+)" "([a-z0-9_]+)"`)
	varRef    = regexp.MustCompile(`\bvar\.([a-z0-9_]+)`)
	localRef  = regexp.MustCompile(`\blocal\.([a-z0-9_]+)`)
	moduleRef = regexp.MustCompile(`\bmodule\.([a-z0-9_]+)(?:\[[^\]]*\])?\.([a-z0-9_]+)`)
	hcloudRef = regexp.MustCompile(`\b(hcloud_[a-z_]+)\.([a-z0-9_]+)\b`)
	localDef  = regexp.MustCompile(`(?m)^  ([a-z0-9_]+) += `)
	block     = regexp.MustCompile(`(?ms)^module "([a-z0-9_]+)" \{\n(.*?)^\}`)
	argument  = regexp.MustCompile(`(?m)^  ([a-z0-9_]+) +=`)
	comment   = regexp.MustCompile(`(?m)^\s*#.*$`)
)

// module is the text of a directory's files, without comments.
type module struct {
	text      string
	variables map[string]string // name → its block
	outputs   []string
}

func read(t *testing.T, dir string) module {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	m := module{variables: map[string]string{}}
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		text := comment.ReplaceAllString(string(b), "")
		for _, pair := range []string{"{}", "[]", "()"} {
			require.Equal(t, strings.Count(text, pair[:1]), strings.Count(text, pair[1:]), "%s: %s", f, pair)
		}
		require.NotContains(t, text, "\t", "%s: terraform fmt indents with spaces", f)
		m.text += text + "\n"
	}
	for _, d := range declared.FindAllStringSubmatchIndex(m.text, -1) {
		kind, name := m.text[d[2]:d[3]], m.text[d[4]:d[5]]
		body, _, _ := strings.Cut(m.text[d[1]:], "\n}")
		switch kind {
		case "variable":
			m.variables[name] = body
		case "output":
			m.outputs = append(m.outputs, name)
		}
	}
	return m
}

func names(re *regexp.Regexp, text string, group int) []string {
	var out []string
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		out = append(out, m[group])
	}
	return out
}

func TestReferencesResolve(t *testing.T) {
	for _, dir := range []string{".", "modules/plan", "modules/region", "modules/machine"} {
		m := read(t, dir)
		for _, v := range names(varRef, m.text, 1) {
			require.Contains(t, m.variables, v, "%s: var.%s", dir, v)
		}
		for v := range m.variables {
			require.Contains(t, names(varRef, m.text, 1), v, "%s: variable %s is unused", dir, v)
		}
		defs := names(localDef, m.text, 1)
		for _, l := range names(localRef, m.text, 1) {
			require.Contains(t, defs, l, "%s: local.%s", dir, l)
		}
		var resources []string
		for _, r := range resource.FindAllStringSubmatch(m.text, -1) {
			resources = append(resources, r[1]+"."+r[2])
		}
		for _, r := range hcloudRef.FindAllString(m.text, -1) {
			require.Contains(t, resources, r, dir)
		}
		calls := map[string]module{}
		for _, b := range block.FindAllStringSubmatch(m.text, -1) {
			source := regexp.MustCompile(`source += "([^"]+)"`).FindStringSubmatch(b[2])
			require.NotNil(t, source, "%s: module %s", dir, b[1])
			called := read(t, filepath.Join(dir, source[1]))
			calls[b[1]] = called
			given := names(argument, b[2], 1)
			for _, g := range given {
				if g != "source" && g != "for_each" {
					require.Contains(t, called.variables, g, "%s: module %s", dir, b[1])
				}
			}
			for v, body := range called.variables {
				if !strings.Contains(body, "\n  default") {
					require.Contains(t, given, v, "%s: module %s lacks %s", dir, b[1], v)
				}
			}
		}
		for _, r := range moduleRef.FindAllStringSubmatch(m.text, -1) {
			require.True(t, slices.Contains(calls[r[1]].outputs, r[2]), "%s: %s", dir, r[0])
		}
	}
}

func TestCloudInitHasItsVariables(t *testing.T) {
	b, err := os.ReadFile("modules/machine/cloud-init.yaml.tftpl")
	require.NoError(t, err)
	m := read(t, "modules/machine")
	_, call, ok := strings.Cut(m.text, "templatefile(")
	require.True(t, ok)
	call, _, _ = strings.Cut(call, "})")
	given := names(regexp.MustCompile(`(?m)^    ([a-z]+) +=`), call, 1)
	for _, used := range names(regexp.MustCompile(`\$\{(?:[a-z0-9]+\()?([a-z]+)`), string(b), 1) {
		if used != "split" {
			require.Contains(t, given, used)
		}
	}
	for _, used := range names(regexp.MustCompile(`%\{ if ([a-z]+)`), string(b), 1) {
		require.Contains(t, given, used)
	}
}

// Machines run every component of a region, each with its own directory of secrets.
func TestMachinesRunTheWholeRegion(t *testing.T) {
	dir := t.TempDir()
	for from, to := range map[string]string{"modules/machine/compose.yml": "compose.yml", "../../deploy/compose/services.yml": "services.yml"} {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, to), b, 0o600))
	}
	options, err := cli.NewProjectOptions([]string{filepath.Join(dir, "compose.yml")}, cli.WithProfiles([]string{"*"}),
		cli.WithEnv([]string{"MERIDIAN_REGISTRY=r.example", "MERIDIAN_VERSION=v1", "MERIDIAN_REGION=eu", "MERIDIAN_NUMBER=1", "MERIDIAN_ADDRESS=192.0.2.1"}))
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	push, err := os.ReadFile("push.sh")
	require.NoError(t, err)
	var mounted []string
	for _, s := range project.Services {
		require.Equal(t, "host", s.NetworkMode, s.Name)
		require.True(t, strings.HasPrefix(s.Image, "r.example/meridian"), s.Image)
		require.True(t, strings.HasSuffix(s.Image, ":v1"), s.Image)
		for _, v := range s.Volumes {
			if v.Target == deploy.Mount {
				component := filepath.Base(v.Source)
				mounted = append(mounted, component)
				require.Contains(t, string(push), component, "push.sh must bring the secrets of %s", component)
			}
		}
	}
	require.ElementsMatch(t, deploy.Components(region.Region{Control: true}), mounted)
}
