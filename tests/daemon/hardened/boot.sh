#!/bin/sh
# systemd as the first process of a machine of its own: a throw-away copy of this one's files (an overlay in memory),
# its own processes, devices, cgroup and mounts, and of all units only those in a folder. What it changes is gone with
# it. To be run as root in new mount, PID, IPC, UTS and cgroup namespaces.
#   boot.sh UNITS OUT UNIT: UNITS holds all units there are, OUT is the one folder of this machine that is written to.
set -eu
units=$1 out=$2 unit=$3
mount --make-rprivate /
base=$(mktemp -d "$out/root.XXXXXX")
mount -t tmpfs -o size=4g,mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/new"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$base/new"
root=$base/new
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for folder in run tmp var/tmp; do
    mkdir -p "$root/$folder"
    mount -t tmpfs tmpfs "$root/$folder"
done
chmod 755 "$root/run"
chmod 1777 "$root/tmp" "$root/var/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# Nothing of this machine's own is started there: no unit, no generator.
for folder in etc/systemd usr/lib/systemd/system usr/lib/systemd/system-generators usr/lib/systemd/system-environment-generators; do
    mkdir -p "$root/$folder"
    mount -t tmpfs -o mode=755 tmpfs "$root/$folder"
done
mkdir -p "$root/etc/systemd/system" "$root/mnt/out"
cp -R "$units/." "$root/etc/systemd/system/"
mount --bind "$out" "$root/mnt/out"
mkdir "$root/mnt/old"
cd "$root"
pivot_root . mnt/old
umount -l /mnt/old
: > /etc/machine-id
exec env -i PATH="$PATH" container=other /usr/lib/systemd/systemd --system --unit="$unit" --log-target=console \
    --show-status=no --default-standard-output=null </dev/null
