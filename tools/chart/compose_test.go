package chart

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// composeFile is what deploy/compose.yaml says of its services.
type composeFile struct {
	Services map[string]struct {
		Image       string            `json:"image"`
		Command     []string          `json:"command"`
		Environment map[string]string `json:"environment"`
	} `json:"services"`
}

var (
	variable = regexp.MustCompile(`\$\{([A-Z_]+)(:[?-])?\}`)
	upstream = regexp.MustCompile(`server ([a-z0-9-]+):(\d+) resolve;`)
)

func readCompose(t *testing.T) (file composeFile) {
	t.Helper()
	values := map[string]string{}
	for line := range strings.Lines(read(t, "deploy/compose.env.example")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[name] = value
		}
	}
	used := map[string]bool{}
	text := variable.ReplaceAllStringFunc(read(t, "deploy/compose.yaml"), func(v string) string {
		m := variable.FindStringSubmatch(v)
		value, ok := values[m[1]]
		if used[m[1]] = true; !ok || m[2] == ":?" && value == "" {
			t.Errorf("deploy/compose.env.example: there is no %s", m[1])
		}
		return value
	})
	for name := range values {
		if !used[name] {
			t.Errorf("deploy/compose.env.example: nobody uses %s", name)
		}
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// What containers get is what hanse understands; there are two of each role, and the edge knows them.
func TestCompose(t *testing.T) {
	program, file := buildHanse(t), readCompose(t)
	empty := filepath.Join(t.TempDir(), "hanse.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	replicas := map[string]int{}
	listen := map[string]string{} // by role
	for name, s := range file.Services {
		if s.Image != "hanse" {
			continue
		}
		role, ok := strings.CutPrefix(strings.Join(s.Command, " "), "run --role=")
		if !ok || !strings.HasPrefix(name, role+"-") {
			t.Errorf("%s: command %q", name, s.Command)
		}
		replicas[role]++
		if s.Environment["HANSE_WORKER_ID"] != name || s.Environment["HANSE_LISTEN_GRPC_ADVERTISE"] != name+s.Environment["HANSE_LISTEN_GRPC_ADDRESS"] {
			t.Errorf("%s has the name or address of another: %v", name, s.Environment)
		}
		var env []corev1.EnvVar
		for k, v := range s.Environment {
			env = append(env, corev1.EnvVar{Name: k, Value: v})
		}
		if _, warnings := config(t, program, empty, env); warnings != "" {
			t.Errorf("%s: %s", name, warnings)
		}
		listen[role] = s.Environment["HANSE_LISTEN_CLIENT_ADDRESS"]
		if role == "fedin" {
			listen[role] = s.Environment["HANSE_LISTEN_FEDERATION_ADDRESS"]
		}
	}
	if want := map[string]int{"room": 2, "client": 2, "sync": 2, "media": 2, "fedin": 2, "fedout": 2, "push": 2, "appservice": 2}; !maps.Equal(replicas, want) {
		t.Errorf("replicas %v", replicas)
	}
	behind := map[string]int{}
	for _, m := range upstream.FindAllStringSubmatch(read(t, "deploy/nginx.conf"), -1) {
		role, _, _ := strings.Cut(m[1], "-")
		if _, ok := file.Services[m[1]]; !ok || listen[role] != ":"+m[2] {
			t.Errorf("deploy/nginx.conf: %s listens on %q, not %s", m[1], listen[role], m[2])
		}
		behind[role]++
	}
	if want := map[string]int{"client": 2, "sync": 2, "media": 2, "fedin": 2}; !maps.Equal(behind, want) {
		t.Errorf("workers behind the edge: %v", behind)
	}
}

// What the image is made of is there.
func TestDockerfileCopies(t *testing.T) {
	n := 0
	for line := range strings.Lines(read(t, "deploy/Dockerfile")) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "COPY" || strings.HasPrefix(words[1], "--from") {
			continue
		}
		for _, from := range words[1 : len(words)-1] {
			found, err := filepath.Glob(filepath.Join(root, from))
			if err != nil || len(found) == 0 {
				t.Errorf("there is no %s to copy: %v", from, err)
			}
			n++
		}
	}
	if n == 0 {
		t.Error("nothing is copied")
	}
}
