package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/containerd/log"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// eventsGroup is NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h: changes of the ruleset.
const eventsGroup = 7

// deletedTable is the netlink message that tells of a deleted table.
const deletedTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE

// watch listens to the kernel's messages about the ruleset, so that a firewall that is reloaded by flushing all
// tables does not take published ports and the rules that protect containers away. Closing the result ends it.
func (f *firewall) watch() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a socket for nftables' messages: %w", err)
	}
	events := os.NewFile(uintptr(fd), "nftables events")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (eventsGroup - 1)}); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to nftables' messages: %w", err), events.Close())
	}
	return events, nil
}

// guard writes the table anew whenever it was deleted, until the events are closed.
func (f *firewall) guard(events *os.File) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := events.Read(buffer)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			if !errors.Is(err, fs.ErrClosed) {
				log.L.WithError(err).Warn("the ruleset is not watched any more")
			}
			return
		}
		if err == nil && !tellsOfDeletion(buffer[:n]) {
			continue
		}
		if err := f.restore(); err != nil {
			log.L.WithError(err).Warn("the ruleset was flushed and is not restored")
		}
	}
}

func tellsOfDeletion(packet []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(packet)
	if err != nil {
		return true // look, rather than miss it
	}
	for _, m := range messages {
		if m.Header.Type == deletedTable {
			return true
		}
	}
	return false
}

// restore writes the table if it is not there.
func (f *firewall) restore() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(f.table.Family)
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == f.table.Name {
			return nil
		}
	}
	return f.write()
}
