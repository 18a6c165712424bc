#!/bin/sh
# Runs docker-compose.multiregion.yml on a machine that reaches no registry, as CI
# does: an engine if none runs, a base image from debootstrap, our images, secrets,
# Compose from tools/, and `up --wait`. What it started it leaves running and says
# how to end it. As root, on Debian.
#
#   sh deploy/compose/local.sh          all of it
#   sh deploy/compose/local.sh prepare  all but `up`
set -eu
cd "$(dirname "$0")/../.."

say() { echo "compose-local: $*" >&2; }

# The engine of the distribution has a BuildKit client of its own.
docker=${DOCKER:-$([ -x /usr/bin/docker ] && echo /usr/bin/docker || echo docker)}
state=${MERIDIAN_DOCKER_STATE:-/var/lib/meridian-docker}

missing=
command -v dockerd >/dev/null || missing="$missing docker.io iptables"
command -v debootstrap >/dev/null || missing="$missing debootstrap"
if [ -n "$missing" ]; then
	say "installing$missing"
	# Its own service must not start: this script does it, in a place of its own.
	policy=/usr/sbin/policy-rc.d placed=
	[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && placed=yes; }
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null || {
		[ -z "$placed" ] || rm -f $policy
		exit 1
	}
	[ -z "$placed" ] || rm -f $policy
	[ -x /usr/bin/docker ] && docker=/usr/bin/docker
fi

mkdir -p "$state"
if ! "$docker" info >/dev/null 2>&1; then
	say "starting an engine; end it with: kill \$(cat $state/dockerd.pid)"
	setsid dockerd --data-root "$state/data" --pidfile "$state/dockerd.pid" --log-level warn >"$state/dockerd.log" 2>&1 </dev/null &
	tries=0
	until "$docker" info >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 60 ] || {
			tail -n 20 "$state/dockerd.log" >&2
			say "the engine doesn't answer after 60 s (above: its log)"
			exit 1
		}
		sleep 1
	done
fi

base=debian:bookworm-slim
if ! "$docker" image inspect $base >/dev/null 2>&1 && ! "$docker" pull --quiet $base 2>/dev/null; then
	say "no registry: making $base with debootstrap (once)"
	root=$state/base
	rm -rf "$root"
	# The mirror that this machine uses.
	debootstrap --variant=minbase bookworm "$root" "$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)" >"$state/debootstrap.log" 2>&1 || {
		tail -n 20 "$state/debootstrap.log" >&2
		exit 1
	}
	tar -C "$root" --exclude='./var/cache/apt/archives/*.deb' --exclude='./var/lib/apt/lists/*' -c . |
		"$docker" import --change 'CMD ["bash"]' - $base >/dev/null
	rm -rf "$root"
fi

make images secrets DOCKER="$docker"
go run ./tools/build compose
[ "${1-}" != prepare ] || exit 0

compose="$(go run ./tools/build -path compose)"
say "starting three regions"
start=$(date +%s)
"$compose" -f docker-compose.multiregion.yml up --detach --wait --wait-timeout "${MERIDIAN_WAIT:-600}" || {
	"$compose" -f docker-compose.multiregion.yml ps --all >&2
	exit 1
}
say "ready after $(($(date +%s) - start)) s; pages at http://127.1.0.1:8081/watch/ASSET"
say "stop it with: $compose -f docker-compose.multiregion.yml down"
