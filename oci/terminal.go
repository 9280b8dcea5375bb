package oci

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"gantry/rawfile"
	"gantry/spawn"
)

// terminal makes the process a terminal in its own devpts, hands the master to the parent, and puts the other side on
// descriptors 0, 1 and 2 and on /dev/console. See pts(4), ioctl_tty(2).
func (b *builder) terminal(console func(*os.File) error) error {
	if !b.spec.Process.Terminal {
		return nil
	}
	if console == nil && !b.dry {
		return fmt.Errorf("process.terminal is set, but nobody takes the terminal")
	}
	if err := b.openTerminal(console); err != nil {
		return err
	}
	if !b.shared {
		b.controlTerminal()
	}
	b.touch("/dev/console")
	b.add("take the console's mount", unix.SYS_OPEN_TREE, spawn.Of(slotConsole), spawn.Str(""),
		spawn.Flags(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH, "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH")).Result = slotTree
	b.resolve("open /dev/console", "/dev/console", unix.O_PATH)
	b.add("bind the terminal to /dev/console", unix.SYS_MOVE_MOUNT, spawn.Of(slotTree), spawn.Str(""), spawn.Of(slotScratch), spawn.Str(""),
		spawn.Flags(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH"))
	b.release("/dev/console")
	b.add("close the console's mount", unix.SYS_CLOSE, spawn.Of(slotTree))
	b.add("close the terminal", unix.SYS_CLOSE, spawn.Of(slotConsole))
	return nil
}

// openTerminal opens a terminal of /dev/pts and puts it on descriptors 0, 1 and 2.
func (b *builder) openTerminal(console func(*os.File) error) error {
	p := b.spec.Process
	unlock := new(int32)
	b.add("open a terminal", unix.SYS_OPENAT, spawn.Int(unix.AT_FDCWD), spawn.Str("/dev/pts/ptmx"),
		spawn.Flags(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, "O_RDWR|O_NOCTTY|O_CLOEXEC")).Result = slotMaster
	b.add("unlock the terminal", unix.SYS_IOCTL, spawn.Of(slotMaster), spawn.Flags(unix.TIOCSPTLCK, "TIOCSPTLCK"), spawn.Bytes(bytesOf(unlock), "[0]"))
	b.add("open its other side", unix.SYS_IOCTL, spawn.Of(slotMaster), spawn.Flags(unix.TIOCGPTPEER, "TIOCGPTPEER"),
		spawn.Flags(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, "O_RDWR|O_NOCTTY|O_CLOEXEC")).Result = slotConsole
	if size := p.ConsoleSize; size != nil {
		window := &unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}
		b.add(fmt.Sprintf("set the terminal's size to %d x %d", size.Width, size.Height), unix.SYS_IOCTL, spawn.Of(slotConsole),
			spawn.Flags(unix.TIOCSWINSZ, "TIOCSWINSZ"), spawn.Bytes(bytesOf(window), fmt.Sprintf("{%d, %d}", size.Height, size.Width)))
	}
	if p.User.UID != 0 {
		b.add("give the terminal to the user", unix.SYS_FCHOWN, spawn.Of(slotConsole), spawn.Int(int(p.User.UID)), spawn.Int(-1))
	}
	if err := b.handOver(console); err != nil {
		return err
	}
	b.add("close the terminal's master", unix.SYS_CLOSE, spawn.Of(slotMaster))
	for fd := range 3 {
		b.add(fmt.Sprintf("put the terminal on descriptor %d", fd), unix.SYS_DUP3, spawn.Of(slotConsole), spawn.Int(fd), spawn.Int(0))
	}
	return nil
}

// handOver gives the terminal's master to the parent, which takes it out of the process, if it may look into that.
func (b *builder) handOver(console func(*os.File) error) error {
	if b.hidden {
		return b.sendTerminal(console)
	}
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "hand the terminal over", Pass: slotMaster, Sync: func(child *spawn.Process) error {
		fd, err := unix.PidfdGetfd(int(child.Pidfd.Fd()), child.Passed, 0)
		if err != nil {
			return fmt.Errorf("take the terminal: %w", err)
		}
		return console(os.NewFile(uintptr(fd), "terminal"))
	}})
	return nil
}

// sendTerminal has the process send the master over a pair of sockets; see unix(7). The message names the descriptor before
// there is one: it is put in the place of the process's copy of our end, of which it has no use.
func (b *builder) sendTerminal(console func(*os.File) error) error {
	ours, theirs := spawn.FD{Name: "terminal"}, spawn.FD{Name: "socket"}
	if !b.dry {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("make a pair of sockets: %w", err)
		}
		ours, theirs = b.fd(ends[0], ours.Name), b.fd(ends[1], theirs.Name)
	}
	b.add("put the terminal's master on a descriptor that is known", unix.SYS_DUP3, spawn.Of(slotMaster), spawn.Desc(ours), spawn.Flags(unix.O_CLOEXEC, "O_CLOEXEC"))
	b.add("send the terminal's master", unix.SYS_SENDMSG, spawn.Desc(theirs), spawn.Rights(ours), spawn.Flags(unix.MSG_NOSIGNAL, "MSG_NOSIGNAL"))
	b.plan.Steps = append(b.plan.Steps, spawn.Step{Name: "hand the terminal over", Sync: func(*spawn.Process) error {
		f, err := receiveFile(ours.Num)
		if err != nil {
			return fmt.Errorf("take the terminal: %w", err)
		}
		return console(f)
	}})
	return nil
}

// receiveFile takes the file that has been sent over a socket.
func receiveFile(socket int) (*os.File, error) {
	rights := make([]byte, unix.CmsgSpace(4))
	n := 0
	err := rawfile.Retry(func() (err error) {
		_, n, _, _, err = unix.Recvmsg(socket, nil, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return err
	})
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) == 0 {
		return nil, errors.Join(err, unix.EBADMSG)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// controlTerminal makes the terminal the controlling one of a new session, whose leader the process is: its end would be
// SIGHUP for the session.
func (b *builder) controlTerminal() {
	b.beginSession()
	b.add("make the terminal its controlling one", unix.SYS_IOCTL, spawn.Int(0), spawn.Flags(unix.TIOCSCTTY, "TIOCSCTTY"), spawn.Int(0))
}

func (b *builder) beginSession() {
	b.add("begin a session", unix.SYS_SETSID).Ignore = []unix.Errno{unix.EPERM}
}

// stdio puts descriptors 0, 1 and 2 and those to preserve in their places. Without a terminal the session begins here.
func (b *builder) stdio(s Stdio, preserve []*os.File) error {
	if !b.spec.Process.Terminal {
		if !b.shared {
			b.beginSession()
		}
		for i, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr} {
			if err := b.place(f, i, 3+len(preserve)); err != nil {
				return err
			}
			if isNull(f) {
				b.reopenNull(i)
			}
		}
	}
	for i, f := range preserve {
		if f == nil {
			continue
		}
		if err := b.place(f, 3+i, 3+len(preserve)); err != nil {
			return err
		}
	}
	return nil
}

// isHostDevice tells a device that is the whole host's, as /dev/null, from a terminal: it is nobody's to be given away.
func isHostDevice(fd int) bool {
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil || is.Mode&unix.S_IFMT != unix.S_IFCHR && is.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false
	}
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err != nil
}

// isAnothers reports whether a standard stream is to be given to the process's user, as runc does: its owner is somebody
// else, and it is no device of the whole host. The group stays.
func (b *builder) isAnothers(fd int, uid uint32) bool {
	var is unix.Stat_t
	if !b.inUserNamespace() && unix.Fstat(fd, &is) == nil && is.Uid == uid {
		return false
	}
	return !isHostDevice(fd)
}

// isNull tells the null device, which nil stands for too.
func isNull(f *os.File) bool {
	var stat unix.Stat_t
	return f == nil || unix.Fstat(int(f.Fd()), &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == unix.Mkdev(1, 3)
}

// reopenNull puts the container's own null device in the place of the host's: what is on a mount of the host's keeps a
// container from being checkpointed.
func (b *builder) reopenNull(target int) {
	s := b.resolve("open the container's /dev/null", "/dev/null", unix.O_RDWR|unix.O_NOCTTY)
	s.Ignore, s.Else = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.EPERM, unix.ELOOP, unix.ENXIO}, 2
	b.add(fmt.Sprintf("put it on descriptor %d", target), unix.SYS_DUP3, spawn.Of(slotScratch), spawn.Int(target), spawn.Int(0))
	b.release("/dev/null")
}

// place puts a file on a descriptor; nil is /dev/null. One that stands in another's place (below free) is moved first.
func (b *builder) place(f *os.File, target, free int) error {
	name := [...]string{"stdin", "stdout", "stderr"}[min(target, 2)]
	if target > 2 {
		name = fmt.Sprintf("descriptor %d", target)
	}
	if b.dry {
		b.add("put "+name+" in place", unix.SYS_DUP3, spawn.Desc(spawn.FD{Name: name}), spawn.Int(target), spawn.Int(0))
		return nil
	}
	fd := spawn.FD{Name: name}
	if f == nil {
		null, err := b.open("/dev/null", unix.O_RDWR, name)
		if err != nil {
			return err
		}
		fd = null
	} else {
		fd.Num = int(f.Fd())
	}
	if fd.Num < free && fd.Num != target {
		num, err := unix.FcntlInt(uintptr(fd.Num), unix.F_DUPFD_CLOEXEC, free)
		if err != nil {
			return fmt.Errorf("pass %s on: %w", name, err)
		}
		fd = b.fd(num, name)
	}
	if uid := b.spec.Process.User.UID; target < 3 && b.isAnothers(fd.Num, uid) {
		b.add("give "+name+" to the user", unix.SYS_FCHOWN, spawn.Desc(fd), spawn.Int(int(uid)), spawn.Int(-1)).
			Ignore = []unix.Errno{unix.EPERM, unix.EINVAL, unix.EROFS, unix.EBADF}
	}
	if fd.Num == target {
		b.add("keep "+name+" open", unix.SYS_FCNTL, spawn.Desc(fd), spawn.Flags(unix.F_SETFD, "F_SETFD"), spawn.Int(0))
		return nil
	}
	b.add("put "+name+" in place", unix.SYS_DUP3, spawn.Desc(fd), spawn.Int(target), spawn.Int(0))
	return nil
}
