package oci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/oci/internal/osthread"
	"gantry/rawfile"
)

// rtnetlink is a conversation with the kernel about the interfaces of one network namespace; see rtnetlink(7).
type rtnetlink struct {
	fd  int
	seq uint32
}

func openNetlink() (*rtnetlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	return &rtnetlink{fd: fd}, nil
}

// openNetlinkIn opens one in another network namespace. The thread that goes there ends.
func openNetlinkIn(ns int) (n *rtnetlink, err error) {
	osthread.Run(func() {
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter a network namespace: %w", err)
			return
		}
		n, err = openNetlink()
	})
	return n, err
}

func (n *rtnetlink) close() { _ = unix.Close(n.fd) }

// request sends a message and returns the answers' bodies. The kernel acknowledges all of them.
func (n *rtnetlink) request(kind, flags uint16, body []byte) ([][]byte, error) {
	n.seq++
	msg := make([]byte, 0, unix.SizeofNlMsghdr+len(body))
	msg = binary.NativeEndian.AppendUint32(msg, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = binary.NativeEndian.AppendUint32(msg, n.seq)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	msg = append(msg, body...)
	if err := rawfile.Retry(func() error { return unix.Sendto(n.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) }); err != nil {
		return nil, err
	}
	var answers [][]byte
	var size int
	interrupted := false // the list changed while the kernel wrote it
	buf := make([]byte, 64<<10)
	for {
		err := rawfile.Retry(func() (err error) {
			size, _, err = unix.Recvfrom(n.fd, buf, 0)
			return err
		})
		if err != nil {
			return nil, err
		}
		list, err := syscall.ParseNetlinkMessage(buf[:size])
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.Header.Seq != n.seq:
			case m.Header.Type == unix.NLMSG_ERROR || m.Header.Type == unix.NLMSG_DONE:
				if len(m.Data) < 4 {
					return nil, errors.New("a netlink answer is cut short")
				}
				if errno := int32(binary.NativeEndian.Uint32(m.Data)); errno < 0 {
					return nil, unix.Errno(-errno)
				}
				if interrupted {
					return n.request(kind, flags, body)
				}
				return answers, nil
			default:
				answers = append(answers, append([]byte(nil), m.Data...))
			}
		}
	}
}

// attribute appends one in the form of rtnetlink: length, type, value, padding to four bytes.
func attribute(body []byte, kind uint16, value []byte) []byte {
	body = binary.NativeEndian.AppendUint16(body, uint16(unix.SizeofRtAttr+len(value)))
	body = binary.NativeEndian.AppendUint16(body, kind)
	body = append(body, value...)
	return append(body, make([]byte, -len(value)&3)...)
}

// attributesOf parses those that follow a message's fixed part.
func attributesOf(body []byte) map[uint16][]byte {
	list := map[uint16][]byte{}
	for len(body) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(body))
		if size < unix.SizeofRtAttr || size > len(body) {
			break
		}
		list[binary.NativeEndian.Uint16(body[2:])] = body[unix.SizeofRtAttr:size]
		body = body[min((size+3)&^3, len(body)):]
	}
	return list
}

func uint32Bytes(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// linkBody is a message about the interface with an index, or, if that is 0, with what its attributes say.
func linkBody(index int32, flags, change uint32) []byte {
	m := unix.IfInfomsg{Family: unix.AF_UNSPEC, Index: index, Flags: flags, Change: change}
	return append([]byte(nil), bytesOf(&m)...)
}

// index finds an interface by its name.
func (n *rtnetlink) index(name string) (int32, error) {
	answers, err := n.request(unix.RTM_GETLINK, 0, attribute(linkBody(0, 0, 0), unix.IFLA_IFNAME, append([]byte(name), 0)))
	if err != nil {
		return 0, err
	}
	if len(answers) == 0 || len(answers[0]) < unix.SizeofIfInfomsg {
		return 0, unix.ENODEV
	}
	return int32(binary.NativeEndian.Uint32(answers[0][4:])), nil
}

// address is one of an interface, as the kernel tells it and takes it back.
type address struct {
	header unix.IfAddrmsg
	values map[uint16][]byte
}

// addresses are those of an interface that an administrator gave it and that hold everywhere: all others are the kernel's.
func (n *rtnetlink) addresses(index int32) ([]address, error) {
	header := unix.IfAddrmsg{Family: unix.AF_UNSPEC}
	answers, err := n.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, bytesOf(&header))
	if err != nil {
		return nil, err
	}
	var list []address
	for _, body := range answers {
		if len(body) < unix.SizeofIfAddrmsg {
			continue
		}
		a := address{unix.IfAddrmsg{Family: body[0], Prefixlen: body[1], Flags: body[2], Scope: body[3], Index: binary.NativeEndian.Uint32(body[4:])}, attributesOf(body[unix.SizeofIfAddrmsg:])}
		if int32(a.header.Index) == index && a.header.Scope == unix.RT_SCOPE_UNIVERSE && a.header.Flags&unix.IFA_F_PERMANENT != 0 {
			list = append(list, a)
		}
	}
	return list, nil
}

// addAddress gives an address to an interface.
func (n *rtnetlink) addAddress(index int32, a address) error {
	a.header.Index = uint32(index)
	body := append([]byte(nil), bytesOf(&a.header)...)
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST} {
		if value, set := a.values[kind]; set {
			body = attribute(body, kind, value)
		}
	}
	_, err := n.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
	return err
}
