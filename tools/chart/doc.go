// Package chart holds what operators install to what the code has: the Helm chart renders to objects that Kubernetes
// knows, with a configuration that hanse accepts; alerts, dashboards and docs/operating.md name metrics that there are.
//
// It is a module of its own, outside the workspace: Helm's engine needs much that nothing else here does.
package chart
