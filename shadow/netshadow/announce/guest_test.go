// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

//go:build guest

// This test runs as root in a guest with the modules macvlan, 8021q and bridge. It needs
// no hardware: what is announced on one end of a veth pair is looked at on the other.
package announce_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/netshadow/announce"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGuestSend(t *testing.T) {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ann0"}, PeerName: "ann1"}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { netlink.LinkDel(veth) })
	up := func(name string, addrs ...string) netlink.Link {
		l, err := netlink.LinkByName(name)
		must(t, err)
		// No link-local addresses of the kernel's own.
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/addr_gen_mode", []byte("1"), 0))
		for _, s := range addrs {
			a, err := netlink.ParseAddr(s)
			must(t, err)
			if a.IP.To4() == nil {
				a.Flags |= unix.IFA_F_NODAD
			}
			must(t, netlink.AddrAdd(l, a))
		}
		must(t, netlink.LinkSetUp(l))
		return l
	}
	base := up("ann0", "10.77.0.1/24", "10.77.0.2/24", "fd77::1/64")
	on := func(name string) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, ParentIndex: base.Attrs().Index}
	}
	must(t, netlink.LinkAdd(&netlink.Vlan{LinkAttrs: on("ann0.100"), VlanId: 100}))
	must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: on("annmac"), Mode: netlink.MACVLAN_MODE_BRIDGE}))
	must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: on("anndown"), Mode: netlink.MACVLAN_MODE_BRIDGE}))
	up("ann0.100", "10.77.100.1/24")
	macvlan := up("annmac")
	peer := up("ann1")
	// As of a macvlan in another namespace.
	vlan, err := netlink.LinkByName("ann0.100")
	must(t, err)
	must(t, netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: vlan.Attrs().Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0x50},
	}))

	heard := listen(t, peer)
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	n, err := announce.Send(t.Context(), logger, base.Attrs().Index)
	if err != nil || n != 6 {
		t.Fatalf("sent %d frames, %v, want 6", n, err)
	}
	heard([]string{
		"arp 10.77.0.1 from " + base.Attrs().HardwareAddr.String(),
		"arp 10.77.0.2 from " + base.Attrs().HardwareAddr.String(),
		"arp 10.77.100.1 from " + base.Attrs().HardwareAddr.String() + " vlan 100",
		"na fd77::1 from " + base.Attrs().HardwareAddr.String(),
		"rarp from 02:00:00:00:00:50 vlan 100",
		"rarp from " + macvlan.Attrs().HardwareAddr.String(),
	})
}

// TestGuestSendBehindBridge has a bridge that knows of others on its second port: the
// network is shown them, in the VLAN that the bridge forwards them in.
func TestGuestSendBehindBridge(t *testing.T) {
	pair := func(name, peer string) netlink.Link {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
		must(t, netlink.LinkAdd(l))
		t.Cleanup(func() { netlink.LinkDel(l) })
		p, err := netlink.LinkByName(peer)
		must(t, err)
		for _, l := range []netlink.Link{l, p} {
			must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+l.Attrs().Name+"/addr_gen_mode", []byte("1"), 0))
			must(t, netlink.LinkSetUp(l))
		}
		return l
	}
	base, other := pair("annb0", "annb1"), pair("annc0", "annc1")
	filtering := true
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "annbr"}, VlanFiltering: &filtering}
	must(t, netlink.LinkAdd(br))
	t.Cleanup(func() { netlink.LinkDel(br) })
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/annbr/addr_gen_mode", []byte("1"), 0))
	for _, l := range []netlink.Link{base, other} {
		must(t, netlink.LinkSetMaster(l, br))
		must(t, netlink.BridgeVlanAdd(l, 7, false, false, false, true))
	}
	addr, err := netlink.ParseAddr("10.77.0.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(br, addr))
	must(t, netlink.LinkSetUp(br))
	for vid, last := range map[int]byte{1: 0x51, 7: 0x57} {
		must(t, netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: other.Attrs().Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_MASTER, State: unix.NUD_NOARP,
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, last}, Vlan: vid,
		}))
	}
	peer, err := netlink.LinkByName("annb1")
	must(t, err)
	base, err = netlink.LinkByName("annb0")
	must(t, err)
	own, err := netlink.LinkByName("annbr")
	must(t, err)
	heard := listen(t, peer)
	if n, err := announce.Send(t.Context(), nil, base.Attrs().Index); err != nil || n != 4 {
		t.Fatalf("sent %d frames, %v, want 4", n, err)
	}
	heard([]string{
		"arp 10.77.0.1 from " + own.Attrs().HardwareAddr.String(),
		"rarp from 02:00:00:00:00:51",
		"rarp from 02:00:00:00:00:57 vlan 7",
		"rarp from " + base.Attrs().HardwareAddr.String(),
	})
}

// listen hears what comes to an interface from now on, and returns the function that
// compares what is announced with what should be.
func listen(t *testing.T, peer netlink.Link) func(want []string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), "capture")
	t.Cleanup(func() { f.Close() })
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	all := uint16(unix.ETH_P_ALL)
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: peer.Attrs().Index, Protocol: all<<8 | all>>8}))

	return func(want []string) {
		t.Helper()
		var got []string
		buf, oob := make([]byte, 2048), make([]byte, 256)
		f.SetReadDeadline(time.Now().Add(5 * time.Second))
		raw, err := f.SyscallConn()
		must(t, err)
		for len(got) < len(want) {
			var k, oobn int
			rerr := raw.Read(func(fd uintptr) bool {
				k, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, 0)
				return err != unix.EAGAIN
			})
			if rerr != nil || err != nil {
				t.Fatalf("got %q, then %v, %v", got, rerr, err)
			}
			if s := describe(buf[:k], oob[:oobn]); s != "" {
				got = append(got, s)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// describe says what a frame announces, and "" of others.
func describe(b, oob []byte) (s string) {
	from := fmt.Sprintf("from %02x:%02x:%02x:%02x:%02x:%02x", b[6], b[7], b[8], b[9], b[10], b[11])
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0806:
		s = fmt.Sprintf("arp %d.%d.%d.%d %s", b[28], b[29], b[30], b[31], from)
	case 0x8035:
		s = "rarp " + from
	case 0x86dd:
		if b[20] != 58 || b[54] != 136 {
			return ""
		}
		s = fmt.Sprintf("na fd77::%x %s", b[77], from)
	default:
		return ""
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err.Error()
	}
	for _, m := range msgs { // struct tpacket_auxdata
		const vlanValid = 1 << 4
		if m.Header.Type == unix.PACKET_AUXDATA && binary.NativeEndian.Uint32(m.Data)&vlanValid != 0 {
			s += fmt.Sprintf(" vlan %d", binary.NativeEndian.Uint16(m.Data[16:]))
		}
	}
	return s
}
