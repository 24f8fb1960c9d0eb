#!/bin/busybox sh
# The first program in a guest: loads modules, mounts the host's file system read-only under a tmpfs overlay, or makes
# a root of busybox alone, and hands over to main.sh there. It runs from the initramfs, and knows only busybox and /vm/settings.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /lower /tree /upper /new
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
. /vm/settings

give_up() {
    echo "vm: cannot start the guest: $1; kernel command line: $($bb cat /proc/cmdline)"
    $bb sleep 1
    $bb poweroff -f
    $bb sleep 60
}

for module in $modules; do
    $bb insmod "/vm/modules/$module.ko" || echo "vm: module $module does not load"
done

# A root of the host's files, which the guest reaches below /run/vm/lower, too.
mount_tree() {
    reach_host
    # The bind mount gives a path that needs no quoting in the overlay's options.
    $bb mount --bind "/lower$tree" /tree || give_up "there is no $tree"
    $bb mount -t tmpfs -o mode=755 tmpfs /upper || give_up "no tmpfs"
    $bb mkdir /upper/files /upper/work
    $bb mount -t overlay -o lowerdir=/tree,upperdir=/upper/files,workdir=/upper/work overlay /new ||
        give_up "the overlay does not mount"
}

reach_host() {
    if [ "$vmm" = uml ]; then
        $bb mount -t hostfs -o ro,/ none /lower || give_up "hostfs does not mount"
        return
    fi
    tries=0
    until $bb mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 hostroot /lower 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || give_up "the host's file system does not mount"
        $bb sleep 0.2
    done
}

# A root with busybox under all its names.
make_busybox_root() {
    $bb mount -t tmpfs -o mode=755 tmpfs /new || give_up "no tmpfs"
    $bb mkdir -p /new/bin /new/run /new/tmp /new/etc
    $bb cp /bin/busybox /new/bin/busybox
    for name in $($bb --list); do
        [ "$name" = busybox ] || $bb ln -s busybox "/new/bin/$name"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >/new/etc/passwd
}

if [ -n "$tree" ]; then
    mount_tree
else
    make_busybox_root
fi

[ -d /new/run ] || $bb mkdir /new/run
$bb mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /new/run || give_up "no tmpfs on /run"
$bb mkdir -p /new/run/vm/lower
if [ -n "$tree" ]; then
    $bb mount --move /lower /new/run/vm/lower || give_up "the host's file system does not move"
    $bb umount -l /tree
fi
$bb cp /bin/busybox /vm/settings /vm/main.sh /new/run/vm/
for file in script vmshm-agent; do
    [ ! -e "/vm/$file" ] || $bb cp "/vm/$file" "/new/run/vm/$file"
done
$bb umount -l /proc /sys /dev
exec $bb switch_root /new /run/vm/busybox sh /run/vm/main.sh
give_up "switch_root failed"
