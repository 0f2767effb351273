package chart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// The examples are values that the chart takes, and README.md's first lines work with trial.yaml.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "charts/hanse/examples/*.yaml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples: %v", len(files), err)
	}
	for _, file := range files {
		name := "examples/" + filepath.Base(file)
		if name == "examples/trial.yaml" {
			continue
		}
		o := render(t, cluster{apis: []string{"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}}, name)
		o.check(t)
	}
}

func TestTrial(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "charts/hanse/examples/trial.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	secrets, deployments, services := map[string]*corev1.Secret{}, map[string]*appsv1.Deployment{}, map[string]*corev1.Service{}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatal(err)
		}
		switch kind.Kind {
		case "Secret":
			put(t, []byte(doc), secrets)
		case "Deployment":
			put(t, []byte(doc), deployments)
		case "Service":
			put(t, []byte(doc), services)
		default:
			t.Errorf("%v", kind)
		}
	}
	readme := read(t, "charts/hanse/README.md")
	for name, s := range services {
		d := deployments[name]
		if d == nil || !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels)) ||
			d.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort != s.Spec.Ports[0].Port {
			t.Errorf("%s leads nowhere", name)
		}
		if !strings.Contains(readme, "deployment/"+name) {
			t.Errorf("README.md does not wait for %s", name)
		}
	}
	for _, d := range render(t, cluster{}).deployments {
		for _, e := range d.Spec.Template.Spec.Containers[0].Env {
			if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil || e.ValueFrom.SecretKeyRef.Optional != nil {
				continue
			}
			ref := e.ValueFrom.SecretKeyRef
			value := secrets[ref.Name].StringData[ref.Key]
			found := false
			for name, s := range services {
				found = found || strings.Contains(value, name+":") && s.Spec.Ports[0].Port > 0
			}
			if !found {
				t.Errorf("%s: %q of Secret %s names no service", d.Name, ref.Key, ref.Name)
			}
		}
	}
}
