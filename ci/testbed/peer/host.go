// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package peer is a network host that lives in the test process: gVisor's
// TCP/IP stack behind one Ethernet link.
//
// It answers ARP, neighbour solicitations and echo requests, and gives out
// ordinary net.Listener, net.PacketConn and net.Conn values, so that a program
// which plays the outside world in a test is an ordinary network program. Its
// TCP state belongs to this process and therefore outlives any hypervisor.
//
// It knows frames and the net package; which switch the link leads to, and
// what runs at the other end, it must never know.
package peer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nicID = 1

	defaultMTU = 1500

	// txQueue is how many frames of the stack wait for the link. A full queue
	// loses frames as a network card's does.
	txQueue = 1024

	// udpBuffer is the receive buffer of a UDP socket in bytes. A burst of
	// frames that a machine under test had held back must not be lost here.
	udpBuffer = 16 << 20
)

// A Link carries Ethernet frames without their check sequence. ReadFrame's
// result belongs to the link and is not modified; WriteFrame does not keep its
// argument.
type Link interface {
	ReadFrame(ctx context.Context) ([]byte, error)
	WriteFrame(frame []byte) error
}

// Config describes a host.
type Config struct {
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // IPv4 and IPv6; each makes its subnet on-link
	MTU       int            // of IP packets in bytes; 1500 if 0
	Gateway   netip.Addr     // the router to all other IPv4 subnets, none if invalid
}

// A Host is one endpoint of a network.
type Host struct {
	stack *stack.Stack
	ep    *channel.Endpoint
	mac   tcpip.LinkAddress

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New starts a host on link. It runs until Close, or until the link ends.
func New(link Link, cfg Config) (*Host, error) {
	if len(cfg.MAC) != 6 {
		return nil, fmt.Errorf("peer: MAC address %q is not an Ethernet address", cfg.MAC)
	}
	mtu := cfg.MTU
	if mtu == 0 {
		mtu = defaultMTU
	}
	h := &Host{
		stack: stack.New(stack.Options{
			NetworkProtocols: []stack.NetworkProtocolFactory{
				arp.NewProtocol, ipv4.NewProtocol, ipv6.NewProtocol,
			},
			TransportProtocols: []stack.TransportProtocolFactory{
				tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
			},
		}),
		mac: tcpip.LinkAddress(cfg.MAC),
	}
	// No checksum is offloaded: the stack computes and verifies all of them.
	h.ep = channel.New(txQueue, uint32(mtu+header.EthernetMinimumSize), h.mac)
	if err := h.configure(cfg); err != nil {
		h.stack.Destroy()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.wg.Go(func() { h.receive(ctx, link) })
	h.wg.Go(func() { h.transmit(ctx, link) })
	return h, nil
}

func (h *Host) configure(cfg Config) error {
	sack := tcpip.TCPSACKEnabled(true)
	// gVisor's RACK sends spurious retransmissions when its own scheduling is
	// late (google/gvisor#9778); SACK recovery is what remains without it.
	recovery := tcpip.TCPRecovery(0)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &moderate} {
		if err := h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("peer: set %T: %s", opt, err)
		}
	}
	rcv := tcpip.ReceiveBufferSizeOption{Min: 4096, Default: udpBuffer, Max: udpBuffer}
	if err := h.stack.SetOption(rcv); err != nil {
		return fmt.Errorf("peer: set receive buffer: %s", err)
	}
	if err := h.stack.CreateNIC(nicID, ethernet.New(h.ep)); err != nil {
		return fmt.Errorf("peer: create interface: %s", err)
	}
	for _, prefix := range cfg.Addresses {
		proto := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
		if prefix.Addr().Is6() {
			proto = ipv6.ProtocolNumber
		}
		addr := tcpip.AddressWithPrefix{
			Address:   tcpip.AddrFromSlice(prefix.Addr().AsSlice()),
			PrefixLen: prefix.Bits(),
		}
		err := h.stack.AddProtocolAddress(nicID,
			tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: addr},
			stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("peer: add address %s: %s", prefix, err)
		}
		h.stack.AddRoute(tcpip.Route{Destination: addr.Subnet(), NIC: nicID})
	}
	if cfg.Gateway.IsValid() {
		h.stack.AddRoute(tcpip.Route{
			Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFromSlice(cfg.Gateway.AsSlice()), NIC: nicID,
		})
	}
	return nil
}

// Close ends the host: its connections are aborted, its listeners closed, and
// its goroutines have ended when Close returns. The link stays open.
func (h *Host) Close() error {
	// The stack first, the link last: the resets shall reach the other end.
	h.stack.Destroy()
	h.cancel()
	h.wg.Wait()
	h.ep.Close()
	return nil
}

// receive delivers what the link brings, as a network card does that is not
// promiscuous.
func (h *Host) receive(ctx context.Context, link Link) {
	for {
		frame, err := link.ReadFrame(ctx)
		if err != nil {
			return
		}
		if len(frame) < header.EthernetMinimumSize {
			continue
		}
		dst := header.Ethernet(frame).DestinationAddress()
		if dst != h.mac && dst[0]&1 == 0 {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
			Payload: buffer.MakeWithData(frame), // copies
		})
		h.ep.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

func (h *Host) transmit(ctx context.Context, link Link) {
	for {
		pkt := h.ep.ReadContext(ctx)
		if pkt == nil {
			pkt = h.ep.Read() // what was queued when ctx ended
		}
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		err := link.WriteFrame(view.AsSlice())
		view.Release()
		pkt.DecRef()
		if err != nil {
			return
		}
	}
}

// Stats are what a test needs to know about the host's own behaviour. All are
// counts since the host was started.
type Stats struct {
	UDPReceived    uint64
	UDPDropped     uint64 // datagrams lost here because no program read them in time
	UDPMalformed   uint64 // datagrams with a bad length or checksum
	TCPRetransmits uint64 // segments this host sent again
	TCPTimeouts    uint64 // retransmission timers that ran out
	TCPResetsSent  uint64
	TCPResetsSeen  uint64
	TCPChecksum    uint64 // segments with a bad checksum
	TxDropped      uint64 // frames that did not fit in the transmit queue
}

// Stats returns the host's counters.
func (h *Host) Stats() Stats {
	s := h.stack.Stats()
	nic := h.stack.NICInfo()[nicID]
	return Stats{
		UDPReceived:    s.UDP.PacketsReceived.Value(),
		UDPDropped:     s.UDP.ReceiveBufferErrors.Value(),
		UDPMalformed:   s.UDP.MalformedPacketsReceived.Value() + s.UDP.ChecksumErrors.Value(),
		TCPRetransmits: s.TCP.Retransmits.Value(),
		TCPTimeouts:    s.TCP.Timeouts.Value(),
		TCPResetsSent:  s.TCP.ResetsSent.Value(),
		TCPResetsSeen:  s.TCP.ResetsReceived.Value(),
		TCPChecksum:    s.TCP.ChecksumErrors.Value(),
		TxDropped:      nic.Stats.TxPacketsDroppedNoBufferSpace.Value(),
	}
}
