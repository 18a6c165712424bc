#!/bin/sh
# Machines in namespaces: each a systemd with its own processes, network, mounts and
# cgroups, on one bridge that leads nowhere. As root.
#
#   machine.sh network DIR ADDRESS       makes the bridge, with an address for who looks on
#   machine.sh boot DIR NAME ADDRESS     boots DIR/base with DIR/NAME.user-data
#   machine.sh in DIR NAME COMMAND…      runs a command in it
#   machine.sh look DIR COMMAND…         runs a command of this machine at the bridge
#   machine.sh end DIR                   ends all of them
set -eu
do=$1 dir=$2
shift 2
mark=mt-$(basename "$dir")

# The cgroup of this shell in each hierarchy: "controllers path".
hierarchies() { while IFS=: read -r _ c path; do echo "$c $path"; done </proc/self/cgroup; }
# Where a hierarchy is mounted; of the unified one beside others nothing is needed.
mounted() {
	case $1 in
	'') [ -e /sys/fs/cgroup/cgroup.controllers ] && echo /sys/fs/cgroup || : ;;
	name=*) echo "/sys/fs/cgroup/${1#name=}" ;;
	*) echo "/sys/fs/cgroup/$1" ;;
	esac
}

case $do in
network)
	ip netns add "$mark"
	ip -n "$mark" link add br0 type bridge
	ip -n "$mark" addr add "$1" dev br0
	ip -n "$mark" link set br0 up
	ip -n "$mark" link set lo up
	;;
boot)
	name=$1 address=$2
	here=$dir/$name root=$dir/$name/root
	ip netns add "$mark-$name"
	ip -n "$mark" link add "p-$name" type veth peer name eth0 netns "$mark-$name"
	ip -n "$mark" link set "p-$name" master br0 up
	ip -n "$mark-$name" addr add "$address" dev eth0
	ip -n "$mark-$name" link set eth0 up
	ip -n "$mark-$name" link set lo up
	mkdir -p "$here/upper" "$here/work" "$root" "$here/docker" "$here/data"
	mount -t overlay overlay -o "lowerdir=$dir/base,upperdir=$here/upper,workdir=$here/work" "$root"
	seed=$root/var/lib/cloud/seed/nocloud
	mkdir -p "$root/var/lib/docker" "$root/srv/meridian" "$root/images" "$seed"
	# Docker's overlays can't lie on ours.
	mount --bind "$here/docker" "$root/var/lib/docker"
	mount --bind "$here/data" "$root/srv/meridian"
	mount --bind "$dir/images" "$root/images"
	cp "$dir/$name.user-data" "$seed/user-data"
	printf 'instance-id: %s\nlocal-hostname: %s\n' "$name" "$name" >"$seed/meta-data"
	printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$root/etc/hosts"
	setsid "$0" start "$dir" "$name" >"$here/log" 2>&1 </dev/null &
	;;
start)
	name=$1
	hierarchies >"$dir/$name/cgroups"
	while read -r c path; do
		case $c in /*) path=$c c='' ;; esac
		at=$(mounted "$c")
		[ -n "$at" ] || continue
		group=$at${path%/}/$mark-$name
		mkdir -p "$group"
		for f in cpuset.cpus cpuset.mems; do
			[ ! -e "$group/$f" ] || [ -n "$(cat "$group/$f")" ] || cat "$group/../$f" >"$group/$f"
		done
		echo $$ >"$group/cgroup.procs"
		echo "$group" >>"$dir/$name/groups"
	done <"$dir/$name/cgroups"
	exec ip netns exec "$mark-$name" unshare --mount --pid --uts --ipc --cgroup --fork --kill-child --propagation private "$0" inside "$dir" "$name"
	;;
inside)
	name=$1
	hostname "$name"
	cd "$dir/$name/root"
	mount -t proc proc proc
	mount -t sysfs sysfs sys
	for d in run tmp dev; do mount -t tmpfs tmpfs $d; done
	for n in null zero full random urandom tty; do mknod -m 666 dev/$n c "$(stat -c 0x%t /dev/$n)" "$(stat -c 0x%T /dev/$n)"; done
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
	mount -t tmpfs tmpfs dev/shm
	ln -s pts/ptmx dev/ptmx
	ln -s /proc/self/fd dev/fd
	ln -s fd/1 dev/stdout
	ln -s fd/2 dev/stderr
	: >dev/console
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
		mount -t cgroup2 cgroup2 sys/fs/cgroup
	else
		mount -t tmpfs tmpfs sys/fs/cgroup
		while read -r c path; do
			case $c in /*) continue ;; esac
			options=$c
			case $c in name=*) options=none,$c ;; esac
			mkdir "sys/fs/cgroup/${c#name=}"
			mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/${c#name=}"
		done <"$dir/$name/cgroups"
	fi
	mkdir -p mnt/old
	mount --rbind . .
	cd "$dir/$name/root"
	pivot_root . mnt/old
	cd /
	umount -l /mnt/old
	exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /sbin/init --log-target=console </dev/null >/dev/console 2>&1
	;;
in)
	name=$1
	shift
	# The first process of its PID namespace.
	for pid in $(ip netns pids "$mark-$name"); do
		if [ "$(sed -n 's/^NSpid:.*\t//p' "/proc/$pid/status" 2>/dev/null)" = 1 ] && [ "$(nsenter -t "$pid" -u hostname)" = "$name" ] &&
			[ "$(cat "/proc/$pid/comm")" = systemd ]; then
			exec nsenter -t "$pid" -m -p -u -i -n -C -r -w env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
		fi
	done
	echo "machine: $name isn't up" >&2
	exit 1
	;;
look)
	exec ip netns exec "$mark" "$@"
	;;
end)
	for ns in $(ip netns list | sed -n "s/^\($mark-[^ ]*\).*/\1/p"); do
		# All processes go with the first of their namespaces.
		for pid in $(ip netns pids "$ns"); do kill -9 "$pid" 2>/dev/null || :; done
	done
	for here in "$dir"/*/root; do
		tries=0
		until umount -R "$here" 2>/dev/null || [ $tries -ge 50 ] || ! mountpoint -q "$here"; do
			tries=$((tries + 1))
			sleep 0.2
		done
		groups=${here%/root}/groups
		[ -e "$groups" ] || continue
		while read -r g; do
			tries=0
			# Until the kernel has done with those who were in them.
			until find "$g" -depth -type d -exec rmdir {} \; 2>/dev/null && [ ! -d "$g" ] || [ $tries -ge 50 ]; do
				tries=$((tries + 1))
				sleep 0.2
			done
		done <"$groups"
	done
	for ns in $(ip netns list | sed -n "s/^\($mark[^ ]*\).*/\1/p"); do ip netns del "$ns"; done
	;;
*)
	echo "machine: no such command: $do" >&2
	exit 2
	;;
esac
