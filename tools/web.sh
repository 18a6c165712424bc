#!/bin/sh
# Builds the player's bundle, web/dist, which is committed so that Go alone builds
# the binary.
#
#   sh tools/web.sh          build if sources changed since the last build here
#   sh tools/web.sh --check  fail unless the committed bundle is what the sources make
#   sh tools/web.sh --test   run the bundle's unit tests
set -eu
cd "$(dirname "$0")/../web"

if ! command -v npm >/dev/null; then
	case "${1-}" in
	'') echo "web: no npm here; the committed bundle is used" >&2 && exit 0 ;;
	*) echo "web: npm is needed for this; run make install-develop" >&2 && exit 1 ;;
	esac
fi

# Debian 12 has Node 18, which the bundler refuses: a newer one comes as a package.
if ! node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)'; then
	lock=$(sha256sum ../tools/node/package-lock.json | cut -c 1-12)
	node=${MERIDIAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meridian}/node-$lock
	bin=$node/node_modules/node-linux-$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/')/bin
	[ -x "$bin/node" ] || {
		mkdir -p "$node"
		cp ../tools/node/package.json ../tools/node/package-lock.json "$node/"
		(cd "$node" && npm ci --no-audit --no-fund --silent)
	}
	PATH=$bin:$PATH
fi

digest() { git ls-files -co --exclude-standard -z . | sort -z | xargs -0 sha256sum 2>/dev/null | sha256sum; }
packages() {
	# npm ci is slow; it is due only when the lock file or Node is another one, for
	# which other binaries are chosen.
	sum=$(sha256sum package-lock.json)$(node --version)
	[ "$(cat node_modules/.meridian-lock 2>/dev/null)" = "$sum" ] || {
		npm ci --no-audit --no-fund --silent
		echo "$sum" >node_modules/.meridian-lock
	}
}
build() {
	packages
	[ "$(cat node_modules/.meridian-built 2>/dev/null)" = "$(digest)" ] || {
		npm run --silent build -- --logLevel warn
		digest >node_modules/.meridian-built
	}
}

case "${1-}" in
'') build ;;
--check)
	build
	changed=$(git status --porcelain -- dist)
	[ -z "$changed" ] || {
		echo "web: the committed bundle isn't what the sources make; run make web and commit web/dist:" >&2
		echo "$changed" >&2
		exit 1
	}
	;;
--test)
	packages
	npm test --silent
	;;
*)
	echo "usage: $0 [--check|--test]" >&2
	exit 2
	;;
esac
