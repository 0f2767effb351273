#!/bin/sh
# Installs the Debian packages that are missing for what is asked: run, cluster, test, chart, interop.
set -eu

packages_run="postgresql"
packages_cluster="$packages_run nats-server redis-server"
packages_chart="prometheus" # for promtool
packages_test="$packages_cluster $packages_chart gcc libc6-dev nodejs npm"
packages_interop="$packages_cluster python3 python3-venv nodejs npm"

case "${1:-run}" in
run) wanted=$packages_run ;;
cluster) wanted=$packages_cluster ;;
test) wanted=$packages_test ;;
chart) wanted=$packages_chart ;;
interop) wanted=$packages_interop ;;
*) echo "usage: $0 run|cluster|test|chart|interop" >&2; exit 2 ;;
esac

# present tells whether what we need of a package is there, whoever put it there.
present() {
	case "$1" in
	postgresql) ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null ;;
	nats-server | redis-server) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
	prometheus) command -v promtool >/dev/null ;;
	nodejs) command -v node >/dev/null ;;
	python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
	libc6-dev) [ -e /usr/include/stdio.h ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=
for package in $wanted; do
	present "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "Please install:$missing" >&2
	exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || { echo "Please install, as root: apt-get install$missing" >&2; exit 1; }
	as_root=sudo
fi
echo "Installing:$missing"
$as_root apt-get update -q
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
