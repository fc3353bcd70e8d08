#!/bin/bash
# Boots a real systemd as PID 1 of namespaces of its own, on a machine whose own PID 1 may be anything; needs root, util-linux and
# the systemd package. About half a second. The host's files, /run, sysctls and units stay as they are.
#   real-systemd.sh SHARE SOURCE      prints "ready PID" when it is up; shuts down when its standard input ends
# The guest's / is an overlay: it sees the host's files, and what it writes is thrown away. /run, /tmp and /dev are its own,
# /etc/systemd/system and /etc/webhook-worker are empty, SHARE is mounted on /srv/share, SOURCE on /srv/source, read-only. The
# network is the host's.
set -euo pipefail
SELF=$(readlink -f "$0")
# PID 1 gets no capability that could touch the machine itself.
CAPDROP=-sys_module,-sys_time,-sys_rawio,-syslog,-audit_control,-audit_read,-wake_alarm,-block_suspend,-mac_admin,-mac_override

# ---------------------------------------------------------------- inside the namespaces
if [ "$1" = --inner ]; then
  W=$2; R=$W/root
  mount -t tmpfs -o mode=755 sysd "$W"
  mkdir -p "$W"/{up,wk,root}
  mount -t overlay -o "lowerdir=/,upperdir=$W/up,workdir=$W/wk" overlay "$R"
  mount -t proc -o nosuid,nodev,noexec proc "$R/proc"
  for f in sys sysrq-trigger; do [ -e "$R/proc/$f" ] || continue    # the machine's own knobs: read-only
    mount --bind "$R/proc/$f" "$R/proc/$f"; mount -o remount,bind,ro "$R/proc/$f"; done
  mount --bind /sys "$R/sys"; mount -o remount,bind,ro,nosuid,nodev,noexec "$R/sys"
  mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"           # its root is our own control group
  mount -t tmpfs -o mode=755,nosuid tmpfs "$R/dev"
  for n in null zero full random urandom tty; do touch "$R/dev/$n"; mount --bind "/dev/$n" "$R/dev/$n"; done
  mkdir "$R/dev/pts" "$R/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/dev/shm"
  ln -s pts/ptmx "$R/dev/ptmx"; ln -s /proc/self/fd "$R/dev/fd"
  for i in 0 1 2; do ln -s "/proc/self/fd/$i" "$R/dev/$(set -- stdin stdout stderr; shift $i; echo $1)"; done
  mount -t tmpfs -o mode=755,nosuid,nodev  tmpfs "$R/run"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/tmp"
  mkdir -p "$R"/srv/{share,source} "$R/etc/webhook-worker"
  for d in systemd/system webhook-worker; do mount -t tmpfs -o mode=755 tmpfs "$R/etc/$d"; done
  mount --bind "$3" "$R/srv/share"
  mount --bind "$4" "$R/srv/source"; mount -o remount,bind,ro "$R/srv/source"
  rm -rf "$R/opt/webhook-worker" "$R/etc/resolv.conf"; cp -L /etc/resolv.conf "$R/etc/resolv.conf"
  echo guest >"$R/etc/hostname"
  cd "$R"; mkdir -p .old; pivot_root . .old; umount -l /.old
  mount --make-rshared /  # or LoadCredential= yields an empty directory: its mount is made in a child, and has to come back
  # container= makes systemd behave: no unmounting, no rebooting of what it shares
  exec setpriv --bounding-set "$CAPDROP" \
    env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    /lib/systemd/systemd --system --unit=basic.target --show-status=no </dev/null
fi

# ---------------------------------------------------------------- on the host
CG=$(findmnt -nr -t cgroup2 -o TARGET | head -1)/webhook-test-$$ W=$(mktemp -d)
mkdir "$CG"
cleanup() {
  set +e; [ -n "${U:-}" ] && kill -9 "$U" 2>/dev/null && wait "$U" 2>/dev/null   # takes its processes along
  for _ in $(seq 50); do find "$CG" -depth -type d -exec rmdir {} + 2>/dev/null; [ -d "$CG" ] || break; sleep .1; done
  rm -f "$W.log"; rmdir "$W"
}
trap cleanup EXIT; trap 'exit 130' INT TERM
( echo $BASHPID >"$CG/cgroup.procs"                  # the namespace's root is where we are
  exec setpriv --pdeathsig KILL unshare --mount --propagation private --uts --ipc --cgroup --pid --fork --kill-child=SIGKILL \
    bash "$SELF" --inner "$W" "$1" "$2" ) >"$W.log" 2>&1 </dev/null &
U=$!
P=; for _ in $(seq 100); do P=$(cat "/proc/$U/task/$U/children" 2>/dev/null | tr -d ' ') || true
  [ -n "$P" ] && [ "$(cat "/proc/$P/comm" 2>/dev/null)" = systemd ] && break
  kill -0 "$U" 2>/dev/null || { cat "$W.log" >&2; exit 1; }; sleep .1; done
in_guest() { nsenter -t "$P" -m -u -i -p -C -- "$@"; }
for _ in $(seq 200); do in_guest test -S /run/systemd/private && break; sleep .1; done
timeout 60 nsenter -t "$P" -m -u -i -p -C -- systemctl is-system-running --wait >/dev/null || true
echo "ready $P"
cat >/dev/null || true                               # until whoever started us has had enough
in_guest systemctl exit 0
timeout 60 tail -s .1 --pid="$U" -f /dev/null || kill -9 "$U"; wait "$U" || true; U=
