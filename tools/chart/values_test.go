package chart

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// What is mistyped is refused, and the error says where it stands.
func TestTyposAreRefused(t *testing.T) {
	ch := loadChart(t)
	for values, says := range map[string]string{
		"roles: {synk: {}}":                                          "synk",
		"roles: {sync: {replicaCount: 3}}":                           "replicaCount",
		"roles: {sync: {autoscaling: {enable: true}}}":               "enable",
		"defaults: {autoscaling: {by: vpa}}":                         "by",
		"serverNames: null":                                          "serverNames",
		"serverNames: []":                                            "serverNames",
		"serverNames: example.org":                                   "serverNames",
		"ipv6: maybe":                                                "ipv6",
		"imge: {tag: v1}":                                            "imge",
		"image: {digest: abc}":                                       "digest",
		"defaults: {replicas: null}":                                 "replicas",
		"defaults: {autoscaling: {maxReplicas: null}}":               "maxReplicas",
		"roles: {room: {replicas: null}}":                            "replicas",
		"defaults: {replicas: two}":                                  "replicas",
		"defaults: {replicas: -1}":                                   "replicas",
		"defaults: {topologySpread: {kubernetes.io/hostname: Soon}}": "topologySpread",
		"defaults: {extraEnv: [{nam: A}]}":                           "extraEnv",
		"drain: {delay: 5}":                                          "drain/delay",
		"ingress: {controler: nginx}":                                "controler",
		"ingress: {roleAnnotations: {synk: {}}}":                     "synk",
		"gateway: {enabled: true}":                                   "parentRefs",
		"publicBaseURL: matrix.example.org":                          "publicBaseURL",
		"media: {store: /var/media}":                                 "store",
		"networkPolicy: {apiFrom: {}}":                               "apiFrom",
		"secret: null":                                               "secret",
	} {
		v, err := chartutil.ReadValues([]byte(values))
		if err != nil {
			t.Fatal(err)
		}
		_, err = chartutil.ToRenderValues(ch, v, chartutil.ReleaseOptions{Name: "my"}, nil)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// A role's own values come over the defaults: false and null too, and variables by their names.
func TestRoleOverDefaults(t *testing.T) {
	o := render(t, cluster{}, `
defaults:
  autoscaling: {enabled: true}
  extraEnv: [{name: A, value: "1"}, {name: B, value: "2"}]
  extraVolumes: [{name: ca, secret: {secretName: ca}}]
  extraVolumeMounts: [{name: ca, mountPath: /ca}]
roles:
  room:
    autoscaling: {enabled: false}
    resources: {limits: null}
    unreachableSeconds: null
    topologySpread: {topology.kubernetes.io/zone: null, kubernetes.io/hostname: DoNotSchedule}
    config: {room: {rooms: 7}}
    image: {tag: canary}
    extraEnv: [{name: B, value: "3"}]
    extraVolumes: [{name: more, emptyDir: {}}]
    extraVolumeMounts: [{name: more, mountPath: /more}]
  client: {podSecurityContext: {runAsUser: null, runAsGroup: null, fsGroup: null}}
image: {digest: "sha256:`+strings.Repeat("a", 64)+`"}
`)
	room, sync := o.deployments["my-room"], o.deployments["my-sync"]
	if o.scalers["my-room"] != nil || o.scalers["my-sync"] == nil {
		t.Error("a role's false does not override the default's true")
	}
	env := variables(room)
	if env["A"] != "1" || env["B"] != "3" || env["GOMEMLIMIT"] != "" {
		t.Errorf("variables of room: %v", env)
	}
	if env := variables(sync); env["B"] != "2" || env["GOMEMLIMIT"] != "966367641" { // nine tenths of 1Gi
		t.Errorf("variables of sync: %v", env)
	}
	spec := &room.Spec.Template.Spec
	if len(spec.Volumes) != len(sync.Spec.Template.Spec.Volumes)+1 || len(spec.Containers[0].VolumeMounts) != len(sync.Spec.Template.Spec.Containers[0].VolumeMounts)+1 {
		t.Error("volumes of a role are not added to those of the defaults")
	}
	if len(spec.Tolerations) != 0 {
		t.Errorf("tolerations of room: %v", spec.Tolerations)
	}
	if c := spec.TopologySpreadConstraints; len(c) != 1 || c[0].WhenUnsatisfiable != corev1.DoNotSchedule {
		t.Errorf("spread of room: %v", c)
	}
	if image := spec.Containers[0].Image; image != "hanse:canary" {
		t.Errorf("image of room: %s", image)
	}
	if image := sync.Spec.Template.Spec.Containers[0].Image; !strings.HasPrefix(image, "hanse@sha256:aaa") {
		t.Errorf("image of sync: %s", image)
	}
	if c := o.deployments["my-client"].Spec.Template.Spec.SecurityContext; c.RunAsUser != nil || c.FSGroup != nil || !*c.RunAsNonRoot {
		t.Errorf("security context of client: %v", c)
	}
	own, common := o.configs[configOf(room)].Data["hanse.yaml"], o.configs[configOf(sync)].Data["hanse.yaml"]
	if !strings.Contains(own, "rooms: 7") || strings.Contains(common, "rooms: 7") || configOf(o.deployments["my-client"]) != configOf(sync) {
		t.Errorf("configuration of room:\n%s\nof others:\n%s", own, common)
	}
}

func variables(d *appsv1.Deployment) map[string]string {
	env := map[string]string{}
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		env[e.Name] = e.Value
	}
	return env
}

func configOf(d *appsv1.Deployment) string {
	for _, v := range d.Spec.Template.Spec.Volumes {
		if v.Name == "config" {
			return v.ConfigMap.Name
		}
	}
	return ""
}

// liveDeployment is a Deployment of the release as the cluster has it.
func liveDeployment(role string, replicas int32, config string) *appsv1.Deployment {
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "my-" + role, Namespace: "matrix"}}
	d.Spec.Replicas = &replicas
	d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}}}
	return d
}

// Switching autoscaling on, and any upgrade after it, leaves the number of pods as it is. A Deployment whose replicas
// disappear from the release has one pod a moment later.
func TestAutoscalingKeepsPods(t *testing.T) {
	has := []runtime.Object{liveDeployment("client", 10, "x"), liveDeployment("room", 3, "x")}
	for _, by := range []string{"hpa", "keda", "external"} {
		o := render(t, cluster{apis: []string{"keda.sh/v1alpha1"}, has: has},
			`{defaults: {replicas: 4, autoscaling: {enabled: true, minReplicas: 5, by: `+by+`}}}`)
		for role, want := range map[string]int32{"client": 10, "room": 3, "sync": 5} {
			if n := o.deployments["my-"+role].Spec.Replicas; n == nil || *n != want {
				t.Errorf("%s: %s has %v replicas, want %d", by, role, n, want)
			}
		}
		if scalers := map[string]int{"hpa": len(roles)}[by]; len(o.scalers) != scalers {
			t.Errorf("%s: %d HorizontalPodAutoscalers", by, len(o.scalers))
		}
		if others := map[string]int{"keda": len(roles)}[by]; len(o.others) != others {
			t.Errorf("%s: %d ScaledObjects", by, len(o.others))
		}
	}
	if n := render(t, cluster{has: has}, `{defaults: {replicas: 4}}`).deployments["my-client"].Spec.Replicas; *n != 4 {
		t.Errorf("without autoscaling: %d replicas", *n)
	}
	if n := render(t, cluster{}, `{defaults: {autoscaling: {enabled: true, keepReplicas: false}}}`).deployments["my-client"].Spec.Replicas; n != nil {
		t.Errorf("not kept: %d replicas", *n)
	}
}

func TestScaledObjects(t *testing.T) {
	o := render(t, cluster{apis: []string{"keda.sh/v1alpha1"}},
		`{defaults: {autoscaling: {enabled: true, by: keda, prometheus: "http://prometheus:9090"}}, roles: {room: {autoscaling: {cpu: null}}}}`)
	for _, other := range o.others {
		text, err := yaml.Marshal(other.Object["spec"])
		if err != nil {
			t.Fatal(err)
		}
		cpu := strings.Contains(string(text), "type: cpu")
		if cpu == (other.GetName() == "my-room") || !strings.Contains(string(text), "type: prometheus") || !strings.Contains(string(text), "stabilizationWindowSeconds: 600") {
			t.Errorf("%s:\n%s", other.GetName(), text)
		}
		if other.GetName() == "my-sync" && !strings.Contains(string(text), `sum(hanse_sync_open_polls{namespace="matrix",pod=~"my-sync-.+"})`) {
			t.Errorf("sync:\n%s", text)
		}
	}
}

// A configuration has a name of its own, and the one that the running pods have stays as long as they do.
func TestConfigurationOfRunningPodsStays(t *testing.T) {
	before := render(t, cluster{}, `{hooks: {check: false, migrate: false}}`)
	name := configOf(before.deployments["my-client"])
	after := render(t, cluster{has: []runtime.Object{liveDeployment("client", 2, name), before.configs[name]}},
		`{hooks: {check: false, migrate: false}, config: {log: {level: debug}}}`)
	if configOf(after.deployments["my-client"]) == name || after.configs[name] == nil || len(after.configs) != 2 {
		t.Errorf("configurations after a change: %d", len(after.configs))
	}
	if after.configs[name].Data["hanse.yaml"] != before.configs[name].Data["hanse.yaml"] {
		t.Errorf("the old one has become:\n%s", after.configs[name].Data["hanse.yaml"])
	}
}

// Nothing but the image and the configuration restarts pods.
func TestVersionOfTheChartRestartsNothing(t *testing.T) {
	for name, d := range render(t, cluster{}).deployments {
		for key := range d.Spec.Template.Labels {
			if key == "helm.sh/chart" || key == "app.kubernetes.io/version" {
				t.Errorf("%s: pods have the label %s", name, key)
			}
		}
	}
}

// A role that is left out leaves nothing behind that leads to it.
func TestRolesLeftOut(t *testing.T) {
	for _, role := range roles {
		o := render(t, cluster{}, `{ingress: {enabled: true, admin: {enabled: true}, wellKnownHosts: [{host: example.net}]}, gateway: {enabled: true, parentRefs: [{name: x}]}, roles: {`+role+`: null}}`)
		if o.deployments["my-"+role] != nil || o.services["my-"+role] != nil || o.policies["my-"+role] != nil {
			t.Errorf("%s is still there", role)
		}
		for name, in := range o.ingresses {
			for _, p := range in.Spec.Rules[0].HTTP.Paths {
				if o.services[p.Backend.Service.Name] == nil {
					t.Errorf("without %s: %s of %s leads nowhere", role, p.Path, name)
				}
			}
		}
		for _, route := range o.others {
			text, err := yaml.Marshal(route)
			if err != nil || strings.Contains(string(text), "name: my-"+role+"\n") {
				t.Errorf("without %s: %s leads to it (%v)", role, route.GetName(), err)
			}
		}
	}
}

// The API of administrators is not on the internet unless somebody wants it.
func TestAdminAPIIsPrivate(t *testing.T) {
	for _, controller := range []string{`""`, "nginx", "haproxy", "traefik"} {
		o := render(t, cluster{}, `{ingress: {enabled: true, controller: `+controller+`}, gateway: {enabled: true, parentRefs: [{name: x}]}}`)
		for name, in := range o.ingresses {
			if in.Spec.Rules[0].Host != "matrix.example.org" || in.Spec.IngressClassName != nil {
				t.Errorf("%s: %v", name, in.Spec)
			}
			for _, p := range in.Spec.Rules[0].HTTP.Paths {
				if strings.HasPrefix(p.Path, "/_synapse") {
					t.Errorf("%s has %s", name, p.Path)
				}
			}
		}
		text, err := yaml.Marshal(o.others)
		if err != nil || strings.Contains(string(text), "_synapse") || !strings.Contains(string(text), "value: /_matrix/federation") {
			t.Errorf("route: %v\n%s", err, text)
		}
		if hashes := len(o.ingresses["my-sync"].Annotations) > 0; hashes != (controller == "nginx" || controller == "haproxy") {
			t.Errorf("%s: annotations of sync: %t", controller, hashes)
		}
	}
}

// What the cluster does not know is left out, and said.
func TestUnknownAPIs(t *testing.T) {
	o := render(t, cluster{}, `{serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, defaults: {autoscaling: {enabled: true, by: keda}}}`)
	if len(o.others) != 0 {
		t.Errorf("there is %v", o.others)
	}
	for _, want := range []string{"monitoring.coreos.com", "keda.sh"} {
		if !strings.Contains(o.notes, want) {
			t.Errorf("nothing is said of %s:\n%s", want, o.notes)
		}
	}
}

func TestNotes(t *testing.T) {
	notes := render(t, cluster{}, `{media: {store: "s3://b"}, postgresql: {maxConnections: 400}}`).notes
	if strings.Contains(notes, "WARNING") || !strings.Contains(notes, "https://matrix.example.org") || strings.Contains(notes, "exec -it") ||
		!strings.Contains(notes, "386 connections") { // 8 roles of 2 pods and the one of an upgrade, 16 each; and 2
		t.Error(notes)
	}
	notes = render(t, cluster{}, `{ingress: {enabled: true}, grpcTLS: {secretName: x, permissive: true}}`).notes
	for _, want := range []string{"postgresql.maxConnections", "media.store", "trustedProxies", "permissive"} {
		if !strings.Contains(notes, "WARNING") || !strings.Contains(notes, want) {
			t.Errorf("nothing is said of %s:\n%s", want, notes)
		}
	}
	if notes := render(t, cluster{}, `{config: {postgresql: {max_conns: 4}}, roles: {media: null}, defaults: {autoscaling: {enabled: true, maxReplicas: 5}}}`).notes; !strings.Contains(notes, "170 connections") {
		t.Error(notes) // 7 roles of 5 pods and one, 4 each; and 2
	}
}

// Everything has one prefix and selectors of its own, so that two releases can stand in one namespace.
func TestNames(t *testing.T) {
	o := render(t, cluster{}, `{nameOverride: chat, fullnameOverride: big, serviceAccount: {create: false, name: existing}, extraObjects: [{apiVersion: example.org/v1, kind: Thing, metadata: {name: "{{ .Release.Name }}-thing"}}], networkPolicy: {enabled: false}, ingress: {enabled: true}}`)
	d := o.deployments["big-sync"]
	if d == nil || d.Spec.Selector.MatchLabels["app.kubernetes.io/name"] != "chat" || d.Spec.Template.Spec.ServiceAccountName != "existing" {
		t.Errorf("deployment: %v", d)
	}
	if len(o.accounts)+len(o.policies) != 0 || len(o.others) != 1 || o.others[0].GetName() != "my-thing" {
		t.Errorf("%d accounts, %d policies, %v", len(o.accounts), len(o.policies), o.others)
	}
	for name, in := range o.ingresses {
		if o.services[in.Spec.Rules[0].HTTP.Paths[0].Backend.Service.Name] == nil {
			t.Errorf("%s leads nowhere", name)
		}
	}
	for _, job := range o.jobs {
		if job.Spec.Template.Spec.ServiceAccountName != "existing" {
			t.Errorf("%s runs as %q", job.Name, job.Spec.Template.Spec.ServiceAccountName)
		}
	}
}

func weight(t *testing.T, o metav1.Object) int {
	t.Helper()
	n, err := strconv.Atoi(o.GetAnnotations()["helm.sh/hook-weight"])
	if err != nil {
		t.Errorf("%s: %v", o.GetName(), err)
	}
	return n
}

// The Jobs before an upgrade find all that they mount: they run before the release's own objects are there.
func TestHooksStandAlone(t *testing.T) {
	o := render(t, cluster{}, "full.yaml")
	if len(o.jobs) != 2 || len(o.tests) != 1 {
		t.Fatalf("%d jobs, %d tests", len(o.jobs), len(o.tests))
	}
	for name, job := range o.jobs {
		volumes := map[string]bool{}
		for _, v := range job.Spec.Template.Spec.Volumes {
			if volumes[v.Name] {
				t.Errorf("%s: volume %s is there twice", name, v.Name)
			}
			volumes[v.Name] = true
			if v.ConfigMap == nil {
				continue
			}
			c := o.configs[v.ConfigMap.Name]
			if c == nil || c.Annotations["helm.sh/hook"] != job.Annotations["helm.sh/hook"] || weight(t, c) >= weight(t, job) {
				t.Errorf("%s mounts %s: %v", name, v.ConfigMap.Name, c)
			}
		}
		for _, c := range job.Spec.Template.Spec.Containers {
			for _, m := range c.VolumeMounts {
				if !volumes[m.Name] {
					t.Errorf("%s: there is no volume %q", name, m.Name)
				}
			}
		}
	}
	var checked []string
	for _, c := range o.jobs["my-check"].Spec.Template.Spec.Containers {
		checked = append(checked, c.Name)
	}
	if slices.Sort(checked); !slices.Equal(checked, roles) {
		t.Errorf("checked are %v", checked)
	}
	for _, e := range o.jobs["my-migrate"].Spec.Template.Spec.Containers[0].Env {
		if e.Name == "HANSE_POSTGRESQL_SHARDS" && e.ValueFrom.SecretKeyRef.Key != "direct" {
			t.Errorf("migrations go through %s", e.ValueFrom.SecretKeyRef.Key)
		}
	}
	if o := render(t, cluster{}, `{hooks: {check: false, migrate: false}}`); len(o.jobs) != 0 || !strings.Contains(o.configs[configOf(o.deployments["my-room"])].Data["hanse.yaml"], "migrate: true") {
		t.Error("without a Job nobody migrates")
	}
}
