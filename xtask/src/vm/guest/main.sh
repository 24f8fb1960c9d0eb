# The guest's process 1 on its real root: mounts what a system has, makes the checkout and the script visible at their
# own paths, starts the agent, tells the host "ready", runs the script, and tells its exit status. The control channel
# carries one line per message: `ready`, `failed REASON`, `exit STATUS`. Where the tree has systemd, that becomes process 1.
bb=/run/vm/busybox
. /run/vm/settings
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
umask 022
for directory in proc sys dev tmp root usr/local/bin usr/local/sbin "lib/modules"; do
    [ -d "/$directory" ] || $bb mkdir -p "/$directory"
done
$bb mount -t proc -o nosuid,nodev,noexec proc /proc
$bb mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
$bb mount -t devtmpfs -o mode=755 devtmpfs /dev || $bb mount -t tmpfs -o mode=755 tmpfs /dev
$bb mkdir -p /dev/pts /dev/shm /run/lock
$bb mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /dev/pts
$bb mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
$bb chmod 1777 /tmp /run/lock
$bb ln -sfn /proc/self/fd /dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do
    $bb ln -sf "/proc/self/fd/${stream%%:*}" "/dev/${stream#*:}"
done
$bb hostname "$hostname"
$bb ifconfig lo up
if [ "$network" = yes ]; then
    $bb ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up && $bb route add default gw 10.0.2.2 ||
        echo "vm: there is no network"
fi

# Serial lines without carriage returns and echo. They stay open here: some drivers forget both at the last close.
if [ "$vmm" = uml ]; then
    console=/dev/tty0 output=/dev/tty1 control=/dev/ttyS0
else
    console=/dev/ttyS0 output=/dev/ttyS1 control=
    for port in /sys/class/virtio-ports/*; do
        [ "$($bb cat "$port/name" 2>/dev/null)" != vmshm-control ] || control=/dev/${port##*/}
    done
fi
exec </dev/null >"$console" 2>&1 3>"$output" 4>"$control"
$bb stty -F "$console" -opost -echo
$bb stty -F "$output" -opost -echo
[ "$vmm" != uml ] || $bb stty -F "$control" -opost -echo
$bb dmesg -n 4

tell() {
    echo "$*" >&4
}

power_off() {
    $bb poweroff -f
    # The host ends a guest that does not go by itself.
    while :; do $bb sleep 60; done
}

# show PATH: makes the host's PATH visible here, a directory with an overlay of its own, anything else read-only.
shown=0
show() {
    if [ -d "/run/vm/lower$1" ]; then
        shown=$((shown + 1))
        layers=/run/vm/layers/$shown
        $bb mkdir -p "$1" $layers/lower $layers/upper $layers/work
        $bb mount --bind "/run/vm/lower$1" $layers/lower &&
            $bb mount -t overlay -o lowerdir=$layers/lower,upperdir=$layers/upper,workdir=$layers/work overlay "$1"
    else
        $bb mkdir -p "${1%/*}"
        [ -e "$1" ] || : >"$1"
        $bb mount --bind "/run/vm/lower$1" "$1"
    fi
}

# Makes visible what of the host the guest is to see.
show_host() {
    # On the host's own system only what the guest's own /run, /dev, … hide is missing; on another tree everything is.
    if [ "$tree" != / ] || [ ! -e "$checkout" ]; then
        show "$checkout" || tell "failed the checkout $checkout cannot be shown in the guest"
    fi
    for path in "$script" "$script_as_given"; do
        [ -n "$path" ] || continue
        [ -f "$path" ] && $bb cmp -s "$path" "/run/vm/lower$path" || show "$path" ||
            tell "failed the script $path cannot be shown in the guest"
    done

    # The running kernel's modules, and programs to load them where the system has none.
    release=$($bb uname -r)
    $bb mkdir -p "/lib/modules/$release"
    $bb mount --bind "/run/vm/lower$module_directory" "/lib/modules/$release"
    for program in modprobe insmod rmmod lsmod; do
        command -v $program >/dev/null || $bb ln -sf $bb /usr/local/sbin/$program
    done
    [ -x /sbin/modprobe ] || echo /usr/local/sbin/modprobe >/proc/sys/kernel/modprobe
}

[ -z "$tree" ] || show_host
if [ -n "$agent" ]; then
    from=/run/vm/lower$agent
    [ -n "$tree" ] || from=/run/vm/vmshm-agent
    $bb rm -f /usr/local/bin/vmshm-agent
    $bb cp "$from" /usr/local/bin/vmshm-agent && $bb chmod 755 /usr/local/bin/vmshm-agent
fi
[ -z "$tree" ] || $bb umount -l /run/vm/lower

clean="$bb env -i PATH=$PATH HOME=$HOME TERM=$TERM LANG=$LANG"

# Starts the agent, runs the script, and stays.
go_on() {
    if [ "$start_agent" = yes ]; then
        cd /
        $clean vmshm-agent run 3>&- 4>&- &
        agent_process=$!
        deadline=$(($($bb cut -d. -f1 /proc/uptime) + 60))
        until $clean vmshm-agent status --json >/dev/null 2>&1 3>&- 4>&-; do
            if ! $bb kill -0 $agent_process 2>/dev/null; then
                wait $agent_process
                tell "failed vmshm-agent run ended with status $?"
                power_off
            fi
            if [ "$($bb cut -d. -f1 /proc/uptime)" -gt "$deadline" ]; then
                tell "failed vmshm-agent is not ready after 60 s"
                power_off
            fi
            $bb sleep 0.1
        done
    fi
    tell ready

    if [ -n "$run" ]; then
        cd "$checkout" 2>/dev/null || cd /
        $bb setsid $clean /bin/sh "$run" >&3 2>&1 3>&- 4>&- &
        script_process=$!
        wait $script_process
        status=$?
        # Setting a line's modes waits until its output is out; what still runs may hold the line open.
        $bb stty -F "$output" -opost
        $bb stty -F "$console" -opost
        tell "exit $status"
        power_off
    fi
    # Reap what ends, for as long as the host wants the guest.
    while :; do
        wait
        $bb sleep 3600 3>&- 4>&- &
    done
}

if [ "$init" = systemd ]; then
    # A guest boots for the first time each time, which systemd would talk about with whoever sits at the console.
    $bb tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
    # The checkout may lie below /tmp, so nothing is mounted there.
    $bb ln -sfn /dev/null /etc/systemd/system/tmp.mount
    go_on &
    # Without the terminals of a full boot, which would take the console over.
    exec $clean /lib/systemd/systemd --unit=basic.target 3>&- 4>&-
    tell "failed systemd does not start"
fi
go_on
