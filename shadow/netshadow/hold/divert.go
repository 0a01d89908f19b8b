// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package hold

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A divert leads what is sent through an interface straight to its port, by a rule of
// netfilter that comes before the interface's queueing discipline (nf_hook_egress() in
// __dev_queue_xmit()). While that is exchanged the kernel refuses what reaches it
// (dev_deactivate() waits for a grace period with noop_qdisc in its place); frames that
// are refused can be harvested and re-sent, but later than those that follow.
//
// The kernel takes a divert away when its process dies (NFT_TABLE_F_OWNER).
type divert struct {
	conn  *netlink.Conn
	table []byte
}

// The flag of a table that ends with the socket that made it (linux/netfilter/nf_tables.h).
const tableOwner = 0x2

// The only chain of a table, and what sends a frame: the expression "fwd" with the ifindex
// in a register (net/netfilter/nft_fwd_netdev.c), which packages for nftables lack.
const (
	chainName = "egress"
	register  = unix.NFT_REG32_00
)

// newDivert fails where the kernel has no nft_fwd_netdev.
func newDivert(ifindex, port int) (*divert, error) {
	iface, err := net.InterfaceByIndex(ifindex)
	if err != nil {
		return nil, fmt.Errorf("divert: %w", err)
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("divert: open nfnetlink: %w", err)
	}
	d := &divert{conn, fmt.Appendf(nil, "umbra-%d\x00", ifindex)}
	table := appendAttribute(nil, unix.NFTA_TABLE_NAME, d.table)
	table = appendAttribute(table, unix.NFTA_TABLE_FLAGS, be32(tableOwner))
	if err := d.commit(
		nft{unix.NFT_MSG_NEWTABLE, netlink.Create | netlink.Excl, table},
		nft{unix.NFT_MSG_NEWCHAIN, netlink.Create, d.chain(iface.Name)},
		nft{unix.NFT_MSG_NEWRULE, netlink.Create | netlink.Append, d.rule(port)},
	); err != nil {
		return nil, errors.Join(fmt.Errorf("divert %s to interface %d: %w", iface.Name, port, err), conn.Close())
	}
	return d, nil
}

// Close ends it. What has been diverted is in the port's queue then.
func (d *divert) Close() error {
	err := d.commit(nft{unix.NFT_MSG_DELTABLE, 0, appendAttribute(nil, unix.NFTA_TABLE_NAME, d.table)})
	// The table ends with the socket in any case.
	return errors.Join(err, d.conn.Close())
}

// chain encodes the chain "type filter hook egress device ... priority 0".
func (d *divert) chain(device string) []byte {
	b := appendAttribute(nil, unix.NFTA_CHAIN_TABLE, d.table)
	b = appendAttribute(b, unix.NFTA_CHAIN_NAME, []byte(chainName+"\x00"))
	hook := appendAttribute(nil, unix.NFTA_HOOK_HOOKNUM, be32(unix.NF_NETDEV_EGRESS))
	hook = appendAttribute(hook, unix.NFTA_HOOK_PRIORITY, be32(0))
	hook = appendAttribute(hook, unix.NFTA_HOOK_DEV, append([]byte(device), 0))
	b = appendNested(b, unix.NFTA_CHAIN_HOOK, hook)
	return appendAttribute(b, unix.NFTA_CHAIN_TYPE, []byte("filter\x00"))
}

// rule encodes the rule "fwd to ...".
func (d *divert) rule(port int) []byte {
	value := appendAttribute(nil, unix.NFTA_DATA_VALUE, binary.NativeEndian.AppendUint32(nil, uint32(port)))
	immediate := appendAttribute(nil, unix.NFTA_IMMEDIATE_DREG, be32(register))
	immediate = appendNested(immediate, unix.NFTA_IMMEDIATE_DATA, value)
	expressions := appendExpression(nil, "immediate", immediate)
	expressions = appendExpression(expressions, "fwd", appendAttribute(nil, unix.NFTA_FWD_SREG_DEV, be32(register)))

	b := appendAttribute(nil, unix.NFTA_RULE_TABLE, d.table)
	b = appendAttribute(b, unix.NFTA_RULE_CHAIN, []byte(chainName+"\x00"))
	return appendNested(b, unix.NFTA_RULE_EXPRESSIONS, expressions)
}

func appendExpression(b []byte, name string, data []byte) []byte {
	e := appendAttribute(nil, unix.NFTA_EXPR_NAME, append([]byte(name), 0))
	return appendNested(b, unix.NFTA_LIST_ELEM, appendNested(e, unix.NFTA_EXPR_DATA, data))
}

func appendNested(b []byte, typ uint16, value []byte) []byte {
	return appendAttribute(b, typ|unix.NLA_F_NESTED, value)
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// nft is a change of the netfilter tables of one device each.
type nft struct {
	typ   netlink.HeaderType
	flags netlink.HeaderFlags
	attrs []byte
}

// commit makes all changes or none (nfnetlink_rcv_batch()).
func (d *divert) commit(changes ...nft) error {
	batch := func(typ netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: typ, Flags: netlink.Request},
			Data:   nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	msgs := []netlink.Message{batch(unix.NFNL_MSG_BATCH_BEGIN)}
	for _, c := range changes {
		msgs = append(msgs, netlink.Message{
			Header: netlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | c.typ,
				Flags: netlink.Request | netlink.Acknowledge | c.flags,
			},
			Data: append(nfgenmsg(unix.NFPROTO_NETDEV, 0), c.attrs...),
		})
	}
	return exchange(d.conn, append(msgs, batch(unix.NFNL_MSG_BATCH_END)))
}

// nfgenmsg encodes struct nfgenmsg (linux/netfilter/nfnetlink.h).
func nfgenmsg(family uint8, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}
