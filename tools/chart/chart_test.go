package chart

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const root = "../.."

var roles = []string{"appservice", "client", "fedin", "fedout", "media", "push", "room", "sync"}

func TestDefaultValues(t *testing.T) {
	o := render(t, cluster{})
	o.check(t)
	if len(o.scalers)+len(o.ingresses)+len(o.others) != 0 {
		t.Error("something is there that nobody asked for")
	}
	for name, d := range o.deployments {
		if d.Spec.Replicas == nil || *d.Spec.Replicas != 2 {
			t.Errorf("%s: %v replicas, want 2", name, d.Spec.Replicas)
		}
	}
}

func TestAllValues(t *testing.T) {
	o := render(t, cluster{apis: []string{"monitoring.coreos.com/v1"}}, "full.yaml")
	o.check(t)
	if len(o.scalers) != len(roles) || len(o.ingresses) != 7 {
		t.Errorf("%d scalers, %d ingresses", len(o.scalers), len(o.ingresses))
	}
	for name, in := range o.ingresses {
		for _, p := range in.Spec.Rules[0].HTTP.Paths {
			s := o.services[p.Backend.Service.Name]
			if s == nil || !slices.ContainsFunc(s.Spec.Ports, func(q corev1.ServicePort) bool { return q.Name == p.Backend.Service.Port.Name }) {
				t.Errorf("%s: %s leads nowhere", name, p.Path)
			}
		}
	}
	if o.ingresses["my-sync"].Annotations["nginx.ingress.kubernetes.io/upstream-hash-by"] == "" {
		t.Error("syncs of a device are not kept together")
	}
	if m := o.scalers["my-sync"].Spec.Metrics; len(m) != 2 || m[1].Pods.Metric.Name != "hanse_sync_open_polls" {
		t.Errorf("sync scales by %v", m)
	}
	var kinds []string
	for _, other := range o.others {
		kinds = append(kinds, other.GetKind())
	}
	slices.Sort(kinds)
	if want := []string{"HTTPRoute", "HTTPRoute", "PrometheusRule", "ServiceMonitor"}; !slices.Equal(kinds, want) {
		t.Errorf("there are %v", kinds)
	}
}

// check is what holds whatever the values are.
func (o *objects) check(t *testing.T) {
	t.Helper()
	for _, role := range roles {
		name := "my-" + role
		d, s, b, p := o.deployments[name], o.services[name], o.budgets[name], o.policies[name]
		if d == nil || s == nil || b == nil || p == nil {
			t.Errorf("%s: deployment %t, service %t, budget %t, policy %t", role, d != nil, s != nil, b != nil, p != nil)
			continue
		}
		checkPod(t, name, d, o)
		pod := labels.Set(d.Spec.Template.Labels)
		for what, selector := range map[string]*metav1.LabelSelector{"deployment": d.Spec.Selector, "budget": b.Spec.Selector,
			"policy": &p.Spec.PodSelector, "service": {MatchLabels: s.Spec.Selector}} {
			sel, err := metav1.LabelSelectorAsSelector(selector)
			if err != nil || !sel.Matches(pod) {
				t.Errorf("%s: the selector of the %s does not match its pods (%v)", role, what, err)
			}
			for _, other := range roles {
				if x := o.deployments["my-"+other]; other != role && sel.Matches(labels.Set(x.Spec.Template.Labels)) {
					t.Errorf("%s: the selector of the %s matches pods of %s", role, what, other)
				}
			}
		}
		ports := portsOf(d)
		for _, sp := range s.Spec.Ports {
			if ports[sp.TargetPort.StrVal] != sp.Port {
				t.Errorf("%s: the service's port %s is %d, the pod's %d", role, sp.Name, sp.Port, ports[sp.TargetPort.StrVal])
			}
		}
		for _, rule := range p.Spec.Ingress {
			for _, pp := range rule.Ports {
				if ports[pp.Port.StrVal] == 0 {
					t.Errorf("%s: the policy lets into port %v, which there is not", role, pp.Port)
				}
			}
		}
		if world := reachesWorld(p); world != (role == "appservice" || role == "fedout" || role == "media" || role == "push") {
			t.Errorf("%s: a way out to the world: %t", role, world)
		}
		if b.Spec.UnhealthyPodEvictionPolicy == nil || *b.Spec.UnhealthyPodEvictionPolicy != policyv1.AlwaysAllow {
			t.Errorf("%s: a pod that does not work keeps a node from being emptied", role)
		}
		checkSpread(t, role, d)
		if *d.Spec.Template.Spec.TerminationGracePeriodSeconds < 60 {
			t.Errorf("%s: the grace period is shorter than draining takes", role)
		}
	}
	if len(o.deployments) != len(roles) {
		t.Errorf("%d deployments, want %d", len(o.deployments), len(roles))
	}
	for name, c := range o.configs {
		if strings.HasPrefix(name, "my-config-") && (c.Immutable == nil || !*c.Immutable) {
			t.Errorf("%s may change under the pods that read it", name)
		}
	}
}

// checkSpread holds that an upgrade cannot put all new pods on one node because the old ones are on the others, and that the
// loss of a node is not waited for.
func checkSpread(t *testing.T, role string, d *appsv1.Deployment) {
	t.Helper()
	spec := &d.Spec.Template.Spec
	for _, c := range spec.TopologySpreadConstraints {
		if !slices.Equal(c.MatchLabelKeys, []string{"pod-template-hash"}) || *c.NodeTaintsPolicy != corev1.NodeInclusionPolicyHonor {
			t.Errorf("%s: spread %v", role, c)
		}
	}
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if !slices.ContainsFunc(spec.Tolerations, func(x corev1.Toleration) bool {
			return x.Key == taint && x.TolerationSeconds != nil && *x.TolerationSeconds <= 60
		}) {
			t.Errorf("%s: pods stay for minutes on a node with the taint %s", role, taint)
		}
	}
}

func portsOf(d *appsv1.Deployment) map[string]int32 {
	ports := map[string]int32{}
	for _, p := range d.Spec.Template.Spec.Containers[0].Ports {
		ports[p.Name] = p.ContainerPort
	}
	return ports
}

func checkPod(t *testing.T, name string, d *appsv1.Deployment, o *objects) {
	t.Helper()
	spec := &d.Spec.Template.Spec
	c := &spec.Containers[0]
	ports := portsOf(d)
	for what, probe := range map[string]*corev1.Probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet.Path != what || ports[probe.HTTPGet.Port.StrVal] != 9080 {
			t.Errorf("%s: the probe of %s is %v", name, what, probe)
		}
	}
	if !*spec.SecurityContext.RunAsNonRoot || !*c.SecurityContext.ReadOnlyRootFilesystem || *c.SecurityContext.AllowPrivilegeEscalation {
		t.Errorf("%s: runs with more rights than it needs", name)
	}
	if o.accounts[spec.ServiceAccountName] == nil {
		t.Errorf("%s: there is no ServiceAccount %q", name, spec.ServiceAccountName)
	}
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil && strings.HasSuffix(v.Name, "config") && o.configs[v.ConfigMap.Name] == nil {
			t.Errorf("%s: there is no ConfigMap %q", name, v.ConfigMap.Name)
		}
	}
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("%s: there is no volume %q", name, m.Name)
		}
	}
	role := strings.TrimPrefix(name, "my-")
	if want := []string{"--config=/etc/hanse/hanse.yaml", "run", "--role=" + role}; !slices.Equal(c.Args, want) {
		t.Errorf("%s: runs %q", name, c.Args)
	}
}

// reachesWorld reports whether a policy lets out to public addresses.
func reachesWorld(p *networkingv1.NetworkPolicy) bool {
	for _, rule := range p.Spec.Egress {
		if len(rule.To) == 0 {
			return true
		}
		for _, to := range rule.To {
			if to.IPBlock != nil && (strings.HasPrefix(to.IPBlock.CIDR, "0.0.0.0/") || strings.HasPrefix(to.IPBlock.CIDR, "::/")) {
				return true
			}
		}
	}
	return false
}

// buildHanse builds the program from this tree.
func buildHanse(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hanse")
	cmd := exec.Command("go", "build", "-o", file, "./services/cmd/hanse")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOWORK=", "GOFLAGS=-trimpath")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build hanse: %v\n%s", err, out)
	}
	return file
}

// What the pods get is what hanse understands: its file, and its environment. What the hooks are told to run is a command.
func TestConfigurationIsValid(t *testing.T) {
	program := buildHanse(t)
	for _, values := range []string{"", "full.yaml"} {
		o := render(t, cluster{}, values)
		dir := t.TempDir()
		writeCertificates(t, dir, "workers.hanse.internal")
		for name, d := range o.deployments {
			spec := &d.Spec.Template.Spec
			c := &spec.Containers[0]
			file := configFile(t, o, spec, dir)
			out, warnings := config(t, program, file, c.Env)
			ports := portsOf(d)
			for port, line := range map[string]string{"grpc": "    address: :9090 ", "monitoring": "    address: :9080 "} {
				if want := intstr.FromInt32(ports[port]); !strings.Contains(line, ":"+want.String()) || !strings.Contains(unquoted(out), line) {
					t.Errorf("%s: port %s is %v in the pod, but not in the configuration:\n%s", name, port, want, out)
				}
			}
			if strings.Contains(warnings, "HANSE_") {
				t.Errorf("%s: %s", name, warnings)
			}
		}
		check := o.jobs["my-check"]
		for _, c := range check.Spec.Template.Spec.Containers {
			file := configFile(t, o, &check.Spec.Template.Spec, dir, c.Name+"-")
			set := []string{"--set", "media.store.url=file:///" + dir} // the default has none, and says so
			args := append([]string{"--config=" + file}, append(c.Args[1:], set...)...)
			if out, err := hanse(t, program, c.Env, args...).CombinedOutput(); err != nil {
				t.Errorf("%q for %s: %v\n%s", c.Args, c.Name, err, out)
			}
		}
	}
}

// configFile writes the configuration that a pod mounts, with the files that it names in dir.
func configFile(t *testing.T, o *objects, spec *corev1.PodSpec, dir string, prefix ...string) string {
	t.Helper()
	name := strings.Join(prefix, "") + "config"
	for _, v := range spec.Volumes {
		if v.Name != name {
			continue
		}
		text := strings.ReplaceAll(o.configs[v.ConfigMap.Name].Data["hanse.yaml"], "/etc/hanse/grpc", dir)
		file := filepath.Join(t.TempDir(), "hanse.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	t.Fatalf("there is no volume %q", name)
	return ""
}

func unquoted(s string) string { return strings.ReplaceAll(s, `"`, "") }

// config runs 'hanse config' with a container's environment.
func config(t *testing.T, program, file string, env []corev1.EnvVar) (out, warnings string) {
	t.Helper()
	cmd := hanse(t, program, env, "--config="+file, "config")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Errorf("hanse config: %v\n%s", err, stderr.String())
	}
	return string(stdout), stderr.String()
}

// hanse is the program with a container's environment.
func hanse(t *testing.T, program string, env []corev1.EnvVar, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, args...)
	secrets := map[string]string{"HANSE_POSTGRESQL_SHARDS": "postgres://h:p@db:5432/hanse", "HANSE_NATS_URL": "nats://nats:4222",
		"HANSE_REDIS_URL": "redis://redis:6379/0", "HANSE_WORKER_ID": "my-room-1"}
	for _, e := range env {
		value := strings.ReplaceAll(e.Value, "$(POD_IP)", "10.0.0.1")
		if e.ValueFrom != nil {
			value = secrets[e.Name]
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	return cmd
}

// What the chart counts with is what the program has.
func TestConnectionsOfAProcess(t *testing.T) {
	out, err := exec.Command(buildHanse(t), "--set", "data_dir="+t.TempDir(), "config", "postgresql.max_conns").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const tells = `"max_conns" `
	_, rest, _ := strings.Cut(read(t, "charts/hanse/templates/_helpers.tpl"), tells)
	if number, _, _ := strings.Cut(rest, " "); number != strings.TrimSpace(string(out)) {
		t.Errorf("the chart counts %s connections a process, the program opens %s", number, out)
	}
}
