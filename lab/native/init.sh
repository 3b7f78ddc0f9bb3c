#!/bin/sh
# The guest's pid 1. Brings up what labd needs and starts it again should it ever end.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
while read -r name; do insmod "/modules/$name.ko" || echo "module $name failed"; done </etc/modules.base
grep -q lab.cdrom /proc/cmdline && while read -r name; do insmod "/modules/$name.ko"; done </etc/modules.cdrom
grep -q lab.network /proc/cmdline && while read -r name; do insmod "/modules/$name.ko"; done </etc/modules.network
tries=0
agent=/dev/org.qemu.guest_agent.0
until [ -e /dev/lab.control ] && [ -e /dev/lab.judge ] && { [ ! -x /sbin/qemu-ga ] || [ -e $agent ]; }; do
    for port in /sys/class/virtio-ports/*; do
        [ -r "$port/name" ] && name=$(cat "$port/name") && [ -n "$name" ] && ln -sf "${port##*/}" "/dev/$name"
    done
    [ $((tries += 1)) -gt 1000 ] && echo "no virtio ports" && break
    [ -e /dev/lab.control ] || sleep 0.01
done
if [ -e $agent ]; then
    mkdir -p /run
    /sbin/qemu-ga -m virtio-serial -p $agent -t /run >/run/qemu-ga.log 2>&1 &
fi
while :; do
    /sbin/labd
    echo "labd ended with status $?"
    sleep 1
done
