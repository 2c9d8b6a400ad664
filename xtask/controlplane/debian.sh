#!/usr/bin/env bash
# Builds a real control plane, v1.20.2, with nothing but Debian's archive: for machines without Go. `cargo xtask setup`
# runs it with the directory to fill. Packages are only downloaded and unpacked, so no daemon of theirs is ever started.
set -euo pipefail
out=$(realpath "$1")
work=$out/.work
mkdir -p "$work/gopath/src/k8s.io" "$work/sources" "$work/lists/partial" "$work/cache/archives/partial"
cd "$work"

# Bookworm is the release that still has this source and its Go; the mirror is the one apt already uses.
mirror() {
  cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '$1 == "URIs:" { print $2 }'
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
    awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z+]+:\//) print $i }'
}
# The security archive has neither; a file pattern that matches nothing is no error.
uri=$({ mirror || true; } | awk '!/security/ && !found { print; found = 1 }')
[ -n "$uri" ] || { echo "apt has no package source configured; add one, or install Go and run cargo xtask setup again" >&2; exit 1; }
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || { echo "$keyring is missing; this way works on Debian only: install Go and run cargo xtask setup again" >&2; exit 1; }
printf 'Types: deb deb-src\nURIs: %s\nSuites: bookworm\nComponents: main\nSigned-By: %s\n' "$uri" "$keyring" >sources/bookworm.sources

# Lists and archives of our own: the machine's apt does not change, and its locks are not taken.
apt() {
  apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
apt update
apt download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev etcd-server
apt source --download-only kubernetes
for package in *.deb; do dpkg -x "$package" root; done
install -m 755 root/usr/bin/etcd "$out/etcd"

tree=$work/gopath/src/k8s.io/kubernetes
dpkg-source --skip-patches -x kubernetes_*.dsc "$tree"
# Go since 1.18 needs reflect2 1.0.2; with the vendored 1.0.1 the API server crashes at the first CRD.
rm -rf "$tree/vendor/github.com/modern-go/reflect2"
cp -r root/usr/share/gocode/src/github.com/modern-go/reflect2 "$tree/vendor/github.com/modern-go/"

export GOROOT=$work/root/usr/lib/go-1.19 GOPATH=$work/gopath GOCACHE=$work/gocache GO111MODULE=off CGO_ENABLED=0 GOFLAGS=
export PATH=$GOROOT/bin:$PATH
cd "$tree"

# The source package leaves out the generated OpenAPI definitions, without which nothing validates.
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
described=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg cmd plugin staging/src/k8s.io |
  grep -vE 'code-generator|sample-apiserver|_test.go|/testdata/' | xargs -n1 dirname | sort -u |
  sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e 's#^\(pkg\|cmd\|plugin\)#k8s.io/kubernetes/\1#' | paste -sd,)
"$work/openapi-gen" -h hack/boilerplate/boilerplate.generatego.txt -i "$described" \
  -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi -r "$work/violations"

version=k8s.io/kubernetes/vendor/k8s.io/component-base/version
go build -ldflags "-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20" -o "$out/" \
  k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubectl}
chmod -R u+w "$work"
rm -rf "$work"
