#!/bin/sh
# Installs the Debian packages that are missing for what is asked: run, cluster, test, chart, interop. Hanse starts its own
# PostgreSQL, NATS and Redis from the programs of these packages; the servers that Debian sets up with them are not started,
# now or at the next boot. Of prometheus only promtool is wanted: it is taken out of the package into bin/.
set -eu

packages_run="postgresql"
packages_cluster="$packages_run nats-server redis-server"
packages_chart="promtool"
packages_test="$packages_cluster $packages_chart gcc libc6-dev nodejs npm chromium"
packages_interop="$packages_cluster gcc libc6-dev python3 python3-venv nodejs npm"

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

# install installs packages, as root. Meanwhile policy-rc.d, Debian's switch for this purpose, keeps their servers from
# being started; a policy-rc.d of the machine's own stays. Afterwards they are disabled for the next boot.
install_packages() {
	as_root sh -eu -c '
		policy=/usr/sbin/policy-rc.d
		if [ ! -e $policy ]; then
			printf "#!/bin/sh\nexit 101\n" >$policy
			chmod 755 $policy
			trap "rm -f $policy" EXIT
		fi
		apt-get update -q
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
		for package in "$@"; do
			case $package in
			postgresql | nats-server | redis-server)
				[ ! -e /etc/init.d/$package ] || update-rc.d $package disable >/dev/null 2>&1 || true
				[ ! -d /run/systemd/system ] || systemctl disable --now $package >/dev/null 2>&1 || true
				;;
			esac
		done
	' sh "$@"
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
	case "$missing" in *chromium*) disk=600 ;; *) disk=200 ;; esac
	echo "Installing Debian packages:$missing (the first time: a few minutes, and some $disk MB of disk)"
	# shellcheck disable=SC2086 # a list of words
	install_packages $missing || { echo "Please install, as root: apt-get install$missing" >&2; exit 1; }
	echo "Hanse uses these programs only; Debian's own servers of these packages are left stopped and disabled."
fi
[ -z "$promtool" ] || fetch_promtool
