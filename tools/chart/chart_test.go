package chart

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

const root = "../.."

var roles = []string{"client", "fedin", "fedout", "media", "push", "room", "sync"}

// objects is what the chart renders to, by name.
type objects struct {
	configs     map[string]*corev1.ConfigMap
	accounts    map[string]*corev1.ServiceAccount
	services    map[string]*corev1.Service
	deployments map[string]*appsv1.Deployment
	budgets     map[string]*policyv1.PodDisruptionBudget
	scalers     map[string]*autoscalingv2.HorizontalPodAutoscaler
	ingresses   map[string]*networkingv1.Ingress
	policies    map[string]*networkingv1.NetworkPolicy
	monitors    int
}

// render renders the chart with values from testdata over its own; "" for none.
func render(t *testing.T, file string) *objects {
	t.Helper()
	ch, err := loader.Load(filepath.Join(root, "charts/hanse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Validate(); err != nil {
		t.Fatal(err)
	}
	values := chartutil.Values{}
	if file != "" {
		if values, err = chartutil.ReadValuesFile(filepath.Join("testdata", file)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := chartutil.ToRenderValues(ch, values, chartutil.ReleaseOptions{Name: "my", Namespace: "matrix", IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Engine{Strict: true}.Render(ch, all)
	if err != nil {
		t.Fatal(err)
	}
	o := &objects{map[string]*corev1.ConfigMap{}, map[string]*corev1.ServiceAccount{}, map[string]*corev1.Service{}, map[string]*appsv1.Deployment{},
		map[string]*policyv1.PodDisruptionBudget{}, map[string]*autoscalingv2.HorizontalPodAutoscaler{}, map[string]*networkingv1.Ingress{},
		map[string]*networkingv1.NetworkPolicy{}, 0}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		for doc := range strings.SplitSeq("\n"+files[name], "\n---") {
			if strings.TrimSpace(doc) != "" {
				o.add(t, name, []byte(doc))
			}
		}
	}
	return o
}

func (o *objects) add(t *testing.T, file string, doc []byte) {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		t.Fatalf("%s: %v\n%s", file, err, doc)
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 ConfigMap":
		put(t, doc, o.configs)
	case "v1 ServiceAccount":
		put(t, doc, o.accounts)
	case "v1 Service":
		put(t, doc, o.services)
	case "apps/v1 Deployment":
		put(t, doc, o.deployments)
	case "policy/v1 PodDisruptionBudget":
		put(t, doc, o.budgets)
	case "autoscaling/v2 HorizontalPodAutoscaler":
		put(t, doc, o.scalers)
	case "networking.k8s.io/v1 Ingress":
		put(t, doc, o.ingresses)
	case "networking.k8s.io/v1 NetworkPolicy":
		put(t, doc, o.policies)
	case "monitoring.coreos.com/v1 ServiceMonitor":
		var any map[string]any
		if err := yaml.UnmarshalStrict(doc, &any); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		o.monitors++
	default:
		t.Errorf("%s: %q is not expected", file, kind)
	}
}

// put reads an object; a field that Kubernetes does not know is an error.
func put[T any, P interface {
	*T
	metav1.Object
}](t *testing.T, doc []byte, into map[string]P) {
	t.Helper()
	p := P(new(T))
	if err := yaml.UnmarshalStrict(doc, p); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	if p.GetName() == "" || into[p.GetName()] != nil {
		t.Fatalf("name %q is empty or stands there twice", p.GetName())
	}
	into[p.GetName()] = p
}

func TestDefaultValues(t *testing.T) {
	o := render(t, "")
	o.check(t)
	if len(o.scalers)+len(o.ingresses)+o.monitors != 0 {
		t.Error("something is there that nobody asked for")
	}
	for name, d := range o.deployments {
		if d.Spec.Replicas == nil || *d.Spec.Replicas != 2 {
			t.Errorf("%s: %v replicas, want 2", name, d.Spec.Replicas)
		}
	}
}

func TestAllValues(t *testing.T) {
	o := render(t, "full.yaml")
	o.check(t)
	if len(o.scalers) != len(roles) || len(o.ingresses) != 4 || o.monitors != 1 {
		t.Errorf("%d scalers, %d ingresses, %d monitors", len(o.scalers), len(o.ingresses), o.monitors)
	}
	for name, s := range o.scalers {
		if d := o.deployments[s.Spec.ScaleTargetRef.Name]; d == nil || d.Spec.Replicas != nil {
			t.Errorf("%s scales %q, which is not there or sets its replicas", name, s.Spec.ScaleTargetRef.Name)
		}
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
		if world := reachesWorld(p); world != (role == "fedout" || role == "media" || role == "push") {
			t.Errorf("%s: a way out to the world: %t", role, world)
		}
		if *d.Spec.Template.Spec.TerminationGracePeriodSeconds < 60 {
			t.Errorf("%s: the grace period is shorter than draining takes", role)
		}
	}
	if len(o.deployments) != len(roles) {
		t.Errorf("%d deployments, want %d", len(o.deployments), len(roles))
	}
	if o.configs["my"] == nil || o.accounts["my"] == nil {
		t.Error("no ConfigMap, or no ServiceAccount")
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
		if v.ConfigMap != nil && v.Name == "config" && o.configs[v.ConfigMap.Name] == nil {
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
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOWORK=", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build hanse: %v\n%s", err, out)
	}
	return file
}

// What the pods get is what hanse understands: its file, and its environment.
func TestConfigurationIsValid(t *testing.T) {
	program := buildHanse(t)
	for _, values := range []string{"", "full.yaml"} {
		o := render(t, values)
		dir := t.TempDir()
		for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text := strings.ReplaceAll(o.configs["my"].Data["hanse.yaml"], "/etc/hanse/grpc", dir)
		file := filepath.Join(dir, "hanse.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, d := range o.deployments {
			c := &d.Spec.Template.Spec.Containers[0]
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
	}
}

func unquoted(s string) string { return strings.ReplaceAll(s, `"`, "") }

// config runs 'hanse config' with a container's environment.
func config(t *testing.T, program, file string, env []corev1.EnvVar) (out, warnings string) {
	t.Helper()
	cmd := exec.Command(program, "--config="+file, "config")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	secrets := map[string]string{"HANSE_POSTGRESQL_SHARDS": "postgres://h:p@db:5432/hanse", "HANSE_NATS_URL": "nats://nats:4222",
		"HANSE_REDIS_URL": "redis://redis:6379/0", "HANSE_WORKER_ID": "my-room-1"}
	for _, e := range env {
		value := strings.ReplaceAll(e.Value, "$(POD_IP)", "10.0.0.1")
		if e.ValueFrom != nil {
			value = secrets[e.Name]
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	stdout, err := cmd.Output()
	if err != nil {
		t.Errorf("hanse config: %v\n%s", err, stderr.String())
	}
	return string(stdout), stderr.String()
}
