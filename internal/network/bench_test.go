package network

import (
	"context"
	"testing"
	"time"
)

func BenchmarkSandbox(b *testing.B) {
	n := benchNetwork(b, 0)
	for b.Loop() {
		ip, _ := n.addresses.take()
		s, err := n.newSandbox(ip, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := n.dismantle(s); err != nil {
			b.Fatal(err)
		}
		n.freeAddresses(ip)
		b.StartTimer()
	}
}

func BenchmarkDelete(b *testing.B) {
	n := benchNetwork(b, 0)
	for b.Loop() {
		b.StopTimer()
		ip, _ := n.addresses.take()
		s, err := n.newSandbox(ip, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := n.dismantle(s); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		n.freeAddresses(ip)
		b.StartTimer()
	}
}

func BenchmarkConnect(b *testing.B) {
	for name, ports := range map[string][]Port{"plain": nil, "port": {{Proto: "tcp", ContainerPort: 80}}} {
		b.Run(name, func(b *testing.B) {
			n := benchNetwork(b, 4)
			for b.Loop() {
				b.StopTimer()
				for n.wanting() {
					time.Sleep(time.Millisecond)
				}
				b.StartTimer()
				e, err := n.Connect(context.Background(), Request{Ports: ports})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := n.Disconnect(context.Background(), e); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func benchNetwork(b *testing.B, pool int) *Network {
	b.Helper()
	o := options()
	o.Pool = pool
	n, err := Open(b.Context(), o, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := n.Remove(); err != nil {
			b.Error(err)
		}
	})
	return n
}
