package api

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// spec is the OpenAPI document and a compiler of its schemas: those of OpenAPI
// 3.1 are JSON Schema as they are.
type spec struct {
	doc      map[string]any
	compiler *jsonschema.Compiler
	mu       sync.Mutex
}

var openAPISpec = sync.OnceValues(func() (*spec, error) {
	b, err := yaml.YAMLToJSON(openAPI)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("openapi.json", doc); err != nil {
		return nil, err
	}
	return &spec{doc: doc.(map[string]any), compiler: c}, nil
})

// operations are "METHOD /path" of the document.
func (s *spec) operations() map[string]map[string]any {
	out := map[string]map[string]any{}
	for path, item := range s.doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method != "parameters" {
				out[strings.ToUpper(method)+" "+path] = op.(map[string]any)
			}
		}
	}
	return out
}

var param = regexp.MustCompile(`:(\w+)`)

// testOpenAPI: the document lists exactly the routes.
func testOpenAPI(t *testing.T, _ *platform, p *process) {
	s, err := openAPISpec()
	require.NoError(t, err)
	var routes []string
	for _, r := range p.c.server.echo.Routes() {
		if r.Method != "echo_route_not_found" {
			routes = append(routes, r.Method+" "+param.ReplaceAllString(r.Path, "{$1}"))
		}
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(s.operations())), routes)
	ids := map[any]bool{}
	for name, op := range s.operations() {
		require.NotEmpty(t, op["summary"], name)
		require.False(t, ids[op["operationId"]], name)
		ids[op["operationId"]] = true
		require.Contains(t, op["responses"], "default", name)
	}
}

// checkAnswer holds every answer of every test against the document.
func checkAnswer(t testing.TB, resp *http.Response, body []byte) {
	t.Helper()
	s, err := openAPISpec()
	require.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	ct, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if resp.StatusCode >= 400 {
		if resp.Request.Method != http.MethodHead {
			require.Equal(t, "application/problem+json", ct, "%s %s: %s", resp.Request.Method, resp.Request.URL, body)
			s.check(t, "#/components/schemas/Problem", body)
		}
		return
	}
	for name, op := range s.operations() {
		method, path, _ := strings.Cut(name, " ")
		if method != resp.Request.Method || !matches(path, resp.Request.URL.Path) {
			continue
		}
		answer, ok := op["responses"].(map[string]any)[itoa(resp.StatusCode)]
		require.True(t, ok, "%s answers %d, which the document doesn't have", name, resp.StatusCode)
		content, _ := answer.(map[string]any)["content"].(map[string]any)
		if ct == "application/json" || content["application/json"] != nil {
			require.Equal(t, "application/json", ct, name)
			ref := content["application/json"].(map[string]any)["schema"].(map[string]any)["$ref"].(string)
			s.check(t, ref, body)
		}
		return
	}
	if resp.Request.Method != http.MethodOptions {
		t.Errorf("%s %s isn't in the document", resp.Request.Method, resp.Request.URL.Path)
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func matches(pattern, path string) bool {
	a, b := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(a, b, func(p, v string) bool { return p == v || strings.HasPrefix(p, "{") && v != "" })
}

func (s *spec) check(t testing.TB, ref string, body []byte) {
	t.Helper()
	schema, err := s.compiler.Compile("openapi.json" + ref)
	require.NoError(t, err)
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	require.NoError(t, err, string(body))
	require.NoError(t, schema.Validate(v), "%s: %s", ref, body)
}
