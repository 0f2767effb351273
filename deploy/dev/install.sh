#!/bin/sh
# Installs the Debian packages that are missing for what is asked: run, cluster, test, chart, interop. Of prometheus only
# promtool is wanted: it is taken out of the package into bin/, as installing that would start a server.
set -eu

packages_run="postgresql"
packages_cluster="$packages_run nats-server redis-server"
packages_chart="promtool"
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
	promtool) command -v promtool >/dev/null || [ -x bin/promtool ] ;;
	nodejs) command -v node >/dev/null ;;
	python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
	libc6-dev) [ -e /usr/include/stdio.h ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# as_root runs a command as root, or says that somebody else must.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "This needs root, and there is no sudo: $*" >&2
		return 1
	fi
}

# fetch_promtool needs no root if the lists of packages are there.
fetch_promtool() {
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	(cd "$dir" && apt-get download -q -o APT::Sandbox::User=root prometheus) 2>/dev/null ||
		{ as_root apt-get update -q && (cd "$dir" && apt-get download -q -o APT::Sandbox::User=root prometheus); } ||
		{ echo "Please install promtool, of Prometheus" >&2; exit 1; }
	dpkg -x "$dir"/prometheus_*.deb "$dir/package"
	mkdir -p bin
	install -m 755 "$dir/package/usr/bin/promtool" bin/promtool
}

cd "$(dirname "$0")/../.."
missing= promtool=
for package in $wanted; do
	if present "$package"; then
		continue
	elif [ "$package" = promtool ]; then
		promtool=missing
	else
		missing="$missing $package"
	fi
done
[ -n "$missing$promtool" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "Please install:$missing${promtool:+ promtool (of Prometheus)}" >&2
	exit 1
fi
if [ -n "$missing" ]; then
	echo "Installing:$missing"
	# shellcheck disable=SC2086 # a list of words
	{ as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } ||
		{ echo "Please install, as root: apt-get install$missing" >&2; exit 1; }
fi
if [ -n "$promtool" ]; then
	echo "Fetching promtool into bin/"
	fetch_promtool
fi
