#!/bin/sh
# First and only process of the test VM. What it says in lines that begin with `vm:` is read by xtask.
export PATH=/sbin:/usr/sbin:/bin:/usr/bin SGP_TEST_ROOT=1 RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
while read -r module; do insmod "/modules/$module" || echo "vm: broke insmod $module"; done </modules/order
ip link set lo up
# What receives may be kept waiting for long, here where all is emulated on what time the host has to spare: a queue that
# overflows meanwhile is not the loss that tests look for.
echo 50000 >/proc/sys/net/core/netdev_max_backlog
echo "vm: up $(uname -r)"
# Sets `arguments`, and what tests find in their environment.
. /tests/settings
while read -r test; do
    echo "vm: begin $test"
    # shellcheck disable=SC2086,SC2154 # arguments are words
    "/tests/$test" $arguments 2>&1
    echo "vm: end $test $?"
done </tests/order
echo "vm: done"
poweroff -f
