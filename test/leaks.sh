# What a container can leave on a machine, one line a piece. Source this; call state before and after.
state() {
  sort < <(
    awk '{print "mount " $5}' /proc/self/mountinfo
    ls /sys/class/net | sed 's/^/interface /'
    find /sys/fs/cgroup -type d -name '*gantry*' 2>/dev/null | sed 's/^/cgroup /'
    pgrep -a 'gantry|containerd-shim' 2>/dev/null | sed 's/^/process /'
  ) || true
}
