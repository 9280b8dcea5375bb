package rawfile

import "golang.org/x/sys/unix"

// Retry calls f again as long as a signal interrupts it (EINTR). Go's runtime sends signals to its own threads, so any
// call that can wait may be interrupted at any time; see signal(7).
func Retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// Poll is poll(2) without EINTR, which the kernel returns even where other calls are restarted. The timeout, in
// milliseconds, begins again after a signal.
func Poll(fds []unix.PollFd, timeout int) (ready int, err error) {
	err = Retry(func() error {
		ready, err = unix.Poll(fds, timeout)
		return err
	})
	return ready, err
}

// HasEnded reports whether a pidfd is readable: all threads of its process have ended.
func HasEnded(pidfd int) (bool, error) {
	ready, err := Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return ready > 0, err
}

// RetryValue is Retry for a call with a result, as a descriptor.
func RetryValue[T any](f func() (T, error)) (value T, err error) {
	err = Retry(func() error {
		value, err = f()
		return err
	})
	return value, err
}
