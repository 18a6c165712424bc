package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/meridian-video/meridian/internal/region"
	"github.com/meridian-video/meridian/internal/testenv"
)

func TestMain(m *testing.M) {
	if v := os.Getenv(watchedEnv); v != "" {
		patience, err := time.ParseDuration(v)
		if err == nil {
			err = watched(patience)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

type command struct {
	Base  `embed:""`
	Limit int `default:"3" env:"MERIDIAN_TEST_LIMIT"`

	ran func(rt *Runtime) Component
}

func (c *command) Run(ctx context.Context) error {
	return Run(ctx, "test", &c.Base, c.Base.Validate, func(_ context.Context, rt *Runtime) (Component, error) {
		return c.ran(rt), nil
	})
}

type component struct {
	ready   chan struct{}
	drained bool
}

func (c *component) Run(ctx context.Context) error { <-ctx.Done(); c.drained = true; return ctx.Err() }

func (c *component) Ready(context.Context) error {
	select {
	case <-c.ready:
		return nil
	default:
		return errors.New("still warming up")
	}
}

func parse(t *testing.T, c *command, args ...string) error {
	t.Helper()
	var config struct {
		command
		Config kong.ConfigFlag
	}
	config.command = *c
	parser, err := kong.New(&config, kong.Configuration(YAMLFile), kong.Exit(func(int) { t.Error("exit") }), kong.Writers(io.Discard, io.Discard))
	require.NoError(t, err)
	_, err = parser.Parse(args)
	*c = config.command
	return err
}

func table(t *testing.T) string {
	t.Helper()
	tab, err := region.Loopback("eu")
	require.NoError(t, err)
	b, err := tab.Marshal()
	require.NoError(t, err)
	return write(t, "regions.yaml", string(b))
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestConfigurationSources(t *testing.T) {
	regions := table(t)
	file := write(t, "config.yaml", "region: eu\nregions: "+regions+"\nlimit: 5\n")

	var c command
	require.NoError(t, parse(t, &c, "--config", file))
	require.Equal(t, 5, c.Limit)
	require.Equal(t, "eu", c.Region)

	t.Setenv("MERIDIAN_TEST_LIMIT", "7")
	c = command{}
	require.NoError(t, parse(t, &c, "--config", file, "--limit", "9"))
	require.Equal(t, 9, c.Limit, "flags win")

	err := parse(t, &command{}, "--config", write(t, "typo.yaml", "regoin: eu\n"))
	require.ErrorContains(t, err, `"regoin"`)
	require.ErrorContains(t, parse(t, &command{}, "--config", write(t, "bad.yaml", "a: [")), "bad.yaml")
	require.ErrorContains(t, parse(t, &command{}), "--region")
}

func TestValidateNamesEveryProblem(t *testing.T) {
	b := Base{Regions: table(t), Region: "mars", Process: Process{AdminListen: "nowhere"}}
	err := b.Validate()
	require.ErrorContains(t, err, `--region "mars"`)
	require.ErrorContains(t, err, "--admin-listen")
	b = Base{Regions: "/does/not/exist", Region: "eu", Process: Process{AdminListen: "127.0.0.1:0"}}
	require.ErrorContains(t, b.Validate(), "/does/not/exist")
}

func TestCheckConfigRunsNothing(t *testing.T) {
	c := command{Base: Base{Regions: table(t), Region: "eu", Process: Process{AdminListen: "127.0.0.1:0", CheckConfig: true}}}
	c.ran = func(*Runtime) Component { t.Error("built"); return nil }
	require.NoError(t, c.Run(t.Context()))
	c.Region = "mars"
	require.ErrorContains(t, c.Run(t.Context()), "configuration is not valid")
}

func TestRunServesHealthAndDrains(t *testing.T) {
	admin := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	comp := &component{ready: make(chan struct{})}
	c := command{Base: Base{Regions: table(t), Region: "eu", Process: Process{AdminListen: admin}}}
	c.ran = func(rt *Runtime) Component {
		require.Equal(t, "eu", rt.Region.Name)
		return comp
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()

	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	status := func(path string) (code int, body string) {
		res, err := client.Get("http://" + admin + path)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(b)
	}
	require.Eventually(t, func() bool { code, _ := status("/livez"); return code == 200 }, 10*time.Second, 10*time.Millisecond)
	code, body := status("/readyz")
	require.Equal(t, 503, code)
	require.Contains(t, body, "still warming up")
	close(comp.ready)
	code, _ = status("/readyz")
	require.Equal(t, 200, code)
	_, body = status("/metrics")
	require.Contains(t, body, `meridian_process_start_seconds{component="test"}`)

	cancel()
	require.NoError(t, <-done)
	require.True(t, comp.drained)
	code, _ = status("/livez")
	require.Zero(t, code, "the admin listener is closed")
}

func TestSecretNeverPrints(t *testing.T) {
	var s Secret
	require.NoError(t, s.UnmarshalText([]byte("@"+write(t, "secret", "hunter2\n"))))
	require.Equal(t, "hunter2", s.Reveal())
	j, err := json.Marshal(map[string]Secret{"s": s})
	require.NoError(t, err)
	for _, printed := range []string{s.String(), fmt.Sprint(s), fmt.Sprintf("%+v %#v %q", s, s, s), string(j)} {
		require.False(t, strings.Contains(printed, "hunter2"), printed)
	}
	require.Error(t, s.UnmarshalText([]byte("@/does/not/exist")))
}
