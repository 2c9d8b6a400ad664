//go:build tools

// Package controlplane pins the real Kubernetes control plane and etcd that the
// local cluster runs. Nothing is written in Go here: `cargo xtask setup` builds
// the commands these imports name, at the versions go.mod and go.sum fix.
package controlplane

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
