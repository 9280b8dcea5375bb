# What a container can leave on a machine, one line a piece. Source this; call state before, and left with that after.
state() {
  sort < <(
    awk '{print "mount " $5}' /proc/self/mountinfo
    ls /sys/class/net | sed 's/^/interface /'
    find /run/netns /run/docker/netns -mindepth 1 2>/dev/null | sed 's/^/network namespace /'
    # Peers' parents too: docker, default (containerd's namespace), libpod_parent, kubepods. Podman also makes plain
    # directories, for hierarchies that are not mounted.
    find /sys/fs/cgroup -type d \( -name '*gantry*' -o -path '*/docker*' -o -path '*/default*' -o -path '*/ctrd*' -o -path '*libpod*' -o -path '*kubepods*' \
      -o -path '*k8s.io*' \) 2>/dev/null | sed 's/^/cgroup /'
    find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d -fstype tmpfs 2>/dev/null | sed 's/^/plain directory /'
    # Whoever has ended and waits for its parent is none of ours to end.
    ps -e -o stat=,comm=,pid=,args= | awk '$1 !~ /^Z/ && $2 ~ /gantry|containerd|conmon|dockerd|docker-proxy/ {$1 = $2 = ""; print "process" $0}'
  ) || true
}

# left prints what is there now and was not in the state given.
left() { comm -13 <(echo "$1") <(state); }
