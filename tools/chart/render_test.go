package chart

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
	"sigs.k8s.io/yaml"
)

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
	jobs        map[string]*batchv1.Job
	tests       map[string]*corev1.Pod
	others      []*unstructured.Unstructured
	notes       string
}

// cluster is where a chart is rendered for: what APIs there are besides Kubernetes' own, and objects that are there.
type cluster struct {
	apis []string
	has  []runtime.Object
}

// GetClientFor is what template function lookup asks.
func (c cluster) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, false, err
		}
	}
	gv, err := schema.ParseGroupVersion(apiVersion)
	return fake.NewSimpleDynamicClient(scheme, c.has...).Resource(gv.WithResource(strings.ToLower(kind) + "s")), true, err
}

var loadOnce = sync.OnceValues(func() (*chart.Chart, error) {
	ch, err := loader.Load(filepath.Join(root, "charts/hanse"))
	if err != nil {
		return nil, err
	}
	return ch, ch.Validate()
})

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	ch, err := loadOnce()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// readValues reads values: each is a file of testdata or of the chart's examples, or YAML. Later ones win.
func readValues(t *testing.T, sources ...string) chartutil.Values {
	t.Helper()
	all := chartutil.Values{}
	for _, source := range sources {
		text := []byte(source)
		if strings.HasSuffix(source, ".yaml") {
			dir := "testdata"
			if strings.HasPrefix(source, "examples/") {
				dir = filepath.Join(root, "charts/hanse")
			}
			var err error
			if text, err = os.ReadFile(filepath.Join(dir, source)); err != nil {
				t.Fatal(err)
			}
		}
		values, err := chartutil.ReadValues(text)
		if err != nil {
			t.Fatal(err)
		}
		all = chartutil.MergeTables(values, all)
	}
	return all
}

// render renders the chart for a cluster with values over its own.
func render(t *testing.T, in cluster, sources ...string) *objects {
	t.Helper()
	ch, values := loadChart(t), readValues(t, sources...)
	caps := chartutil.DefaultCapabilities.Copy()
	caps.APIVersions = append(caps.APIVersions, in.apis...)
	all, err := chartutil.ToRenderValues(ch, values, chartutil.ReleaseOptions{Name: "my", Namespace: "matrix", IsInstall: true}, caps)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Engine{Strict: true}.Render(ch, all)
	if in.has != nil { // this engine is not strict
		files, err = engine.RenderWithClientProvider(ch, all, in)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := &objects{configs: map[string]*corev1.ConfigMap{}, accounts: map[string]*corev1.ServiceAccount{}, services: map[string]*corev1.Service{},
		deployments: map[string]*appsv1.Deployment{}, budgets: map[string]*policyv1.PodDisruptionBudget{},
		scalers: map[string]*autoscalingv2.HorizontalPodAutoscaler{}, ingresses: map[string]*networkingv1.Ingress{},
		policies: map[string]*networkingv1.NetworkPolicy{}, jobs: map[string]*batchv1.Job{}, tests: map[string]*corev1.Pod{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			o.notes = files[name]
		}
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
	case "v1 Pod":
		put(t, doc, o.tests)
	case "batch/v1 Job":
		put(t, doc, o.jobs)
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
	case "monitoring.coreos.com/v1 ServiceMonitor", "monitoring.coreos.com/v1 PrometheusRule", "keda.sh/v1alpha1 ScaledObject",
		"gateway.networking.k8s.io/v1 HTTPRoute", "example.org/v1 Thing":
		var other map[string]any
		if err := yaml.UnmarshalStrict(doc, &other); err != nil {
			t.Fatalf("%s: %v\n%s", file, err, doc)
		}
		o.others = append(o.others, &unstructured.Unstructured{Object: other})
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
	if p.GetName() == "" || len(p.GetName()) > 63 || into[p.GetName()] != nil {
		t.Fatalf("name %q is empty or too long, or stands there twice", p.GetName())
	}
	into[p.GetName()] = p
}

// writeCertificates writes tls.crt, tls.key and ca.crt for a name.
func writeCertificates(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: cert}, "ca.crt": {Type: "CERTIFICATE", Bytes: cert},
		"tls.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
