#!/bin/sh
# Installs the distribution's programs that Meridian runs: quiet, repeatable, and
# a fast no-op when everything is there. Debian and Ubuntu.
#
#   sh deploy/install.sh            what `meridian up` needs
#   sh deploy/install.sh --drill    and the browser of drills
#   sh deploy/install.sh --develop  and what the tests need
#   sh deploy/install.sh --bench    and the peers and load generators of benchmarks
#
# Without root or password-less sudo it installs nothing and prints the one
# command to run.
set -eu

run='ffmpeg postgresql patroni etcd-server etcd-client'
drill='chromium'
develop='pgbackrest rsync gcc libc6-dev jq bind9-dnsutils knot-dnsutils npm'
bench='nginx-light varnish trafficserver wrk nghttp2-client gdnsd knot knot-module-geoip dnsperf mpv gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav gstreamer1.0-plugins-base gstreamer1.0-tools python3-gi gir1.2-gst-plugins-base-1.0 libsoup-3.0-0'

want=$run
case "${1-}" in
--drill) want="$run $drill" ;;
--develop) want="$run $drill $develop" ;;
--bench) want="$run $drill $develop $bench" ;;
'') ;;
*)
	echo "usage: $0 [--drill | --develop | --bench]" >&2
	exit 2
	;;
esac

# Older releases have etcd in one package.
known() { apt-cache show "$1" >/dev/null 2>&1; }
installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

command -v dpkg-query >/dev/null || {
	echo "install: this isn't Debian or Ubuntu; install by hand: ffmpeg, PostgreSQL 15 or newer, Patroni with etcd3 support, etcd 3.4 or newer${1:+, gcc, Chromium, jq, dig, kdig, npm}" >&2
	exit 1
}

missing=
for package in $want; do
	# Another Node than Debian's brings its own npm.
	[ "$package" = npm ] && command -v npm >/dev/null && continue
	# Any of nginx's packages will do.
	[ "$package" = nginx-light ] && command -v nginx >/dev/null && continue
	installed "$package" || installed "$(echo "$package" | sed 's/^etcd-.*/etcd/')" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
	root=
elif sudo -n true 2>/dev/null; then
	root='sudo -n'
else
	echo "install: these packages are missing; please run:" >&2
	echo "  sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi

echo "install:$missing" >&2
start=$(date +%s)
log=$(mktemp)

# The packages' own services must not start: the platform runs its own instances.
policy=/usr/sbin/policy-rc.d
placed=
cleanup() {
	[ -z "$placed" ] || $root rm -f "$policy"
	rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
	placed=yes
	$root chmod 755 "$policy"
fi

apt() {
	# Another apt may hold the lock: wait for it, within reason.
	$root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >>"$log" 2>&1 || {
		tail -n 30 "$log" >&2
		echo "install: apt-get $1 failed (above)" >&2
		exit 1
	}
}
apt update
for package in $missing; do
	known "$package" || missing=$(echo "$missing" | sed "s/ $package\b/ etcd/")
done
# shellcheck disable=SC2086
apt install -y --no-install-recommends $missing
echo "install: done in $(($(date +%s) - start)) s" >&2
