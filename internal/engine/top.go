package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"gantry/cgroup"
)

// TopContainer lists a running container's processes: as ps -ef does, or with other arguments by the host's ps.
func (e *Engine) TopContainer(ctx context.Context, id, psArgs string) (*container.TopResponse, error) {
	c, r, err := e.alive(id)
	if err != nil {
		return nil, err
	}
	group, err := cgroup.Open(r.Cgroup)
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", c.ID, err)
	}
	pids, err := group.Procs(true)
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", c.ID, err)
	}
	slices.Sort(pids)
	if psArgs != "" && psArgs != "-ef" {
		top, err := hostPS(ctx, psArgs, pids)
		if err == nil {
			e.containerEvent(c, events.ActionTop)
		}
		return top, err
	}
	e.containerEvent(c, events.ActionTop)
	top := &container.TopResponse{Titles: []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, Processes: [][]string{}}
	for _, pid := range pids {
		if line, err := processLine(pid); err == nil { // else it has just ended
			top.Processes = append(top.Processes, line)
		}
	}
	return top, nil
}

// processLine reads /proc/PID; see proc_pid_stat(5).
func processLine(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	text, err := os.ReadFile(dir + "stat")
	if err != nil {
		return nil, err
	}
	open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	if open < 0 || end < open {
		return nil, fmt.Errorf("%sstat is malformed", dir)
	}
	name, f := string(text[open+1:end]), strings.Fields(string(text[end+1:]))
	if len(f) < 20 {
		return nil, fmt.Errorf("%sstat is malformed", dir)
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	const ticks = 100 // USER_HZ
	busy := time.Duration(number(11)+number(12)) * time.Second / ticks
	began := bootTime().Add(time.Duration(number(19)) * time.Second / ticks)
	cpu := 0
	if age := time.Since(began); age > 0 {
		cpu = int(100 * busy / age)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile(dir + "cmdline")
	if err != nil {
		return nil, err
	}
	cmd := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	if cmd == "" {
		cmd = "[" + name + "]"
	}
	return []string{owner(info), strconv.Itoa(pid), f[1], strconv.Itoa(cpu), began.Format("15:04"), terminal(number(4)), clock(busy), cmd}, nil
}

func owner(info os.FileInfo) string {
	uid := statOf(info).Uid
	if u, err := user.LookupId(strconv.Itoa(int(uid))); err == nil {
		return u.Username
	}
	return strconv.Itoa(int(uid))
}

// terminal names a controlling terminal's device number; pts is major 136.
func terminal(device int64) string {
	if major := device >> 8 & 0xfff; major == 136 {
		return fmt.Sprintf("pts/%d", device&0xff)
	}
	return "?"
}

func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

func bootTime() time.Time {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}
	}
	up, _, _ := strings.Cut(string(text), " ")
	seconds, _ := strconv.ParseFloat(up, 64) // the kernel writes a number
	return time.Now().Add(-time.Duration(seconds * float64(time.Second)))
}

// hostPS runs the host's ps and keeps the lines of the container's processes.
func hostPS(ctx context.Context, psArgs string, pids []int) (*container.TopResponse, error) {
	out, err := exec.CommandContext(ctx, "ps", strings.Fields(psArgs)...).Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		first, _, _ := strings.Cut(strings.TrimSpace(string(failed.Stderr)), "\n")
		return nil, refuse("ps %s: %s", psArgs, strings.TrimSpace(strings.TrimPrefix(first, "error:")))
	}
	if err != nil {
		return nil, refuse("run ps %s on the host: %w", psArgs, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	top := &container.TopResponse{Titles: strings.Fields(lines[0]), Processes: [][]string{}}
	column := slices.Index(top.Titles, "PID")
	if column < 0 {
		return nil, refuse("couldn't find PID field in ps output")
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) < len(top.Titles) {
			continue
		}
		if pid, err := strconv.Atoi(f[column]); err != nil || !slices.Contains(pids, pid) {
			continue
		}
		last := len(top.Titles) - 1
		top.Processes = append(top.Processes, append(f[:last:last], strings.Join(f[last:], " ")))
	}
	return top, nil
}
