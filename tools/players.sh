#!/bin/sh
# Installs the browser players that make bench-players measures, as their lock
# file pins them.
set -eu
cd "$(dirname "$0")/../bench/players/web"

command -v npm >/dev/null || {
	echo "players: npm is needed for this; run make install-develop" >&2
	exit 1
}
sum=$(sha256sum package-lock.json)
[ "$(cat node_modules/.meridian-lock 2>/dev/null)" = "$sum" ] || {
	npm ci --no-audit --no-fund --ignore-scripts --silent
	echo "$sum" >node_modules/.meridian-lock
}
