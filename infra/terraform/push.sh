#!/bin/sh
# Copies to every machine what its components may know, and Compose, over SSH, and
# starts them; run again after `meridian provision` or to upgrade.
#
#   ./push.sh SECRETS [REGION]
#
# TERRAFORM names another program than terraform, such as tofu.
set -eu
secrets=${1:?usage: $0 SECRETS [REGION]}
only=${2-}
cd "$(dirname "$0")"
case $secrets in /*) ;; *) secrets=$OLDPWD/$secrets ;; esac
compose=${MERIDIAN_COMPOSE:-$(cd ../.. && go run ./tools/build compose && go run ./tools/build -path compose)}

"${TERRAFORM:-terraform}" output -json machines |
	jq -r 'to_entries[] | .key as $region | .value | to_entries[] | "\($region) \(.key) \(.value)"' |
	while read -r region role address; do
		[ -z "$only" ] || [ "$only" = "$region" ] || continue
		case $role in
		core) parts='api geodns nats minio etcd postgres' ;;
		edge-*) parts=edge ;;
		encoder-*) parts=encoder ;;
		*) echo "push: no such role: $role" >&2 && exit 1 ;;
		esac
		set --
		for part in $parts; do
			# Regions without quorum have no etcd and no PostgreSQL.
			[ ! -d "$secrets/$region/$part" ] || set -- "$@" "$secrets/$region/$part"
		done
		echo "push: $region $role ($address)"
		ssh "root@$address" 'umask 077 && mkdir -p /etc/meridian/secrets' </dev/null
		rsync -a --delete "$@" "root@$address:/etc/meridian/secrets/" </dev/null
		rsync -a --chmod=0755 "$compose" "root@$address:/usr/local/bin/docker-compose" </dev/null
		ssh "root@$address" 'systemctl reset-failed meridian; systemctl restart meridian' </dev/null
	done
