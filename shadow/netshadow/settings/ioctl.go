// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// What Linux 6.1 has in no netlink message is spoken of in ioctls: receive
// hashing and time stamps here, rules in rules.go.

// ioctls is a socket that they are made on.
type ioctls int

func openIoctls() (ioctls, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return ioctls(fd), err
}

func (io ioctls) close() error { return unix.Close(int(io)) }

// name returns the name that an interface has now.
func (io ioctls) name(index int) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	ifr.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(int(io), unix.SIOCGIFNAME, ifr); err != nil {
		return "", err
	}
	return ifr.Name(), nil
}

// ethtool makes the ioctl SIOCETHTOOL with a command in data, which takes the
// answer.
func (io ioctls) ethtool(ifname string, data []byte) error {
	if len(ifname) >= unix.IFNAMSIZ {
		return unix.ENODEV
	}
	// struct ifreq with ifr_data, include/uapi/linux/if.h.
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(unsafe.SliceData(data))}
	copy(req.name[:], ifname)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(io), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return errno
	}
	return nil
}

// Commands of SIOCETHTOOL, include/uapi/linux/ethtool.h.
const (
	ethtoolGetHashFields = 0x29 // ETHTOOL_GRXFH
	ethtoolSetHashFields = 0x2a
	ethtoolGetHash       = 0x46 // ETHTOOL_GRSSH
	ethtoolSetHash       = 0x47
)

// sizeofHash is the size of struct ethtool_rxfh: cmd, rss_context, indir_size and
// key_size of 4 bytes each, hfunc, and 7 bytes that are reserved. Table and key
// follow.
const sizeofHash = 24

// tableUnchanged is ETH_RXFH_INDIR_NO_CHANGE.
const tableUnchanged = 0xffffffff

// A hash is how a device spreads what it receives over its queues.
type hash struct {
	table    []uint32
	key      []byte
	function uint8 // one bit, ETH_RSS_HASH_*; 0 if the driver tells none
}

func (h hash) encode(cmd uint32) []byte {
	b := make([]byte, 16, sizeofHash+4*len(h.table)+len(h.key))
	binary.NativeEndian.PutUint32(b, cmd)
	binary.NativeEndian.PutUint32(b[8:], uint32(len(h.table)))
	if len(h.table) == 0 && cmd == ethtoolSetHash {
		binary.NativeEndian.PutUint32(b[8:], tableUnchanged)
	}
	binary.NativeEndian.PutUint32(b[12:], uint32(len(h.key)))
	b = append(b, h.function)
	b = append(b, make([]byte, 7)...)
	for _, queue := range h.table {
		b = binary.NativeEndian.AppendUint32(b, queue)
	}
	return append(b, h.key...)
}

// maxTable bounds a device's table and key; mlx5's has 2048 entries.
const maxTable = 1 << 16

// hashSizes reads the sizes from an answer.
func hashSizes(b []byte) (table, key int, err error) {
	if len(b) < sizeofHash {
		return 0, 0, fmt.Errorf("receive hash of %d bytes", len(b))
	}
	t, k := binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])
	if t > maxTable || k > maxTable {
		return 0, 0, fmt.Errorf("receive hash with a table of %d and a key of %d", t, k)
	}
	return int(t), int(k), nil
}

// parseHash reads an answer with table and key.
func parseHash(b []byte) (hash, error) {
	table, key, err := hashSizes(b)
	if err != nil {
		return hash{}, err
	}
	if len(b) < sizeofHash+4*table+key {
		return hash{}, fmt.Errorf("receive hash of %d bytes with a table of %d and a key of %d", len(b), table, key)
	}
	h := hash{function: b[16]}
	b = b[sizeofHash:]
	for range table {
		h.table = append(h.table, binary.NativeEndian.Uint32(b))
		b = b[4:]
	}
	h.key = slices.Clone(b[:key])
	return h, nil
}

func (io ioctls) hash(ifname string) (hash, error) {
	b := hash{}.encode(ethtoolGetHash)
	if err := io.ethtool(ifname, b); err != nil {
		return hash{}, err
	}
	table, key, err := hashSizes(b)
	if err != nil {
		return hash{}, err
	}
	b = hash{table: make([]uint32, table), key: make([]byte, key)}.encode(ethtoolGetHash)
	if err := io.ethtool(ifname, b); err != nil {
		return hash{}, err
	}
	return parseHash(b)
}

// hashFlows are the kinds of flow that have hash fields of their own, by
// ethtool's names: constants *_FLOW of include/uapi/linux/ethtool.h.
var hashFlows = []struct {
	name string
	flow uint32
}{
	{"tcp4", 0x01}, {"udp4", 0x02}, {"sctp4", 0x03}, {"ah4", 0x09}, {"esp4", 0x0a},
	{"tcp6", 0x05}, {"udp6", 0x06}, {"sctp6", 0x07}, {"ah6", 0x0b}, {"esp6", 0x0c},
}

// hashFields are the fields of a flow, by ethtool's letters: constants RXH_* of
// include/uapi/linux/ethtool.h.
var hashFields = []struct {
	letter byte
	bit    uint64
}{
	{'m', 1 << 1}, {'v', 1 << 2}, {'t', 1 << 3}, {'s', 1 << 4}, {'d', 1 << 5}, {'f', 1 << 6}, {'n', 1 << 7}, {'r', 1 << 31},
}

func formatFields(bits uint64) string {
	var b strings.Builder
	for _, f := range hashFields {
		if bits&f.bit != 0 {
			b.WriteByte(f.letter)
		}
	}
	if b.Len() == 0 {
		return noBits
	}
	return b.String()
}

func parseFields(value string) (bits uint64, err error) {
	if value == noBits {
		return 0, nil
	}
	for i := range len(value) {
		known := false
		for _, f := range hashFields {
			if f.letter == value[i] {
				bits |= f.bit
				known = true
			}
		}
		if !known {
			return 0, fmt.Errorf("%q is no letter of a hash field", value[i])
		}
	}
	return bits, nil
}

func checkHashFields(value string) error {
	_, err := parseFields(value)
	return err
}

// fieldsRequest is struct ethtool_rxnfc as far as these commands have it: cmd,
// flow_type and data.
func fieldsRequest(cmd, flow uint32, bits uint64) []byte {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b, cmd)
	binary.NativeEndian.PutUint32(b[4:], flow)
	binary.NativeEndian.PutUint64(b[8:], bits)
	return b
}

func (io ioctls) getHash(ifname string, n names) (Values, error) {
	values := make(Values)
	h, err := io.hash(ifname)
	switch {
	case err == nil:
		h.values(values, n)
	case !errors.Is(err, unix.EOPNOTSUPP):
		return nil, err
	}
	for _, f := range hashFlows {
		b := fieldsRequest(ethtoolGetHashFields, f.flow, 0)
		if err := io.ethtool(ifname, b); errors.Is(err, unix.EOPNOTSUPP) && len(values) == 0 {
			return nil, err
		} else if err == nil {
			values[hashFieldsPrefix+f.name] = formatFields(binary.NativeEndian.Uint64(b[8:]))
		}
	}
	return values, nil
}

func (h hash) values(values Values, n names) {
	for i, name := range n[stringsHashFunctions] {
		if i < 8 && h.function == 1<<i && name != "" {
			values[keyHashFunction] = name
		}
	}
	if len(h.key) > 0 {
		values[keyHashKey] = hex.EncodeToString(h.key)
	}
	if len(h.table) > 0 {
		var text []string
		for _, queue := range period(h.table) {
			text = append(text, formatUint32(queue))
		}
		values[keyHashTable] = strings.Join(text, ",")
	}
}

// period returns the shortest part of a table that the table repeats: what its
// maker meant, in a form that fits tables of other sizes.
func period(table []uint32) []uint32 {
	for n := 1; n <= len(table)/2; n++ {
		if len(table)%n == 0 && slices.Equal(table[n:], table[:len(table)-n]) {
			return table[:n]
		}
	}
	return table
}

// setHash sets what the hash of an interface is made of. Each is a request of
// its own in hardware's eyes, but the kernel takes function, key and table
// together.
func (io ioctls) setHash(ifname string, ops []oplog.Op, n names) error {
	cur, err := io.hash(ifname)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	var want hash
	for _, op := range ops {
		if flow, ok := strings.CutPrefix(op.Key, hashFieldsPrefix); ok {
			if err := io.setFields(ifname, flow, op.Value); err != nil {
				return err
			}
			continue
		}
		if err := want.take(op, cur, n); err != nil {
			return refusal{err}
		}
	}
	if len(want.table)+len(want.key)+int(want.function) == 0 {
		return nil
	}
	return io.ethtool(ifname, want.encode(ethtoolSetHash))
}

// take puts an operation into what is wanted of a device whose hash is cur.
func (h *hash) take(op oplog.Op, cur hash, n names) error {
	switch op.Key {
	case keyHashFunction:
		i := slices.Index(n[stringsHashFunctions], op.Value)
		if i < 0 || i > 7 {
			return fmt.Errorf("the kernel has no hash function of this name")
		}
		h.function = 1 << i
	case keyHashKey:
		key, err := hex.DecodeString(op.Value)
		if err != nil {
			return err
		}
		if len(key) != len(cur.key) {
			return fmt.Errorf("the device's key has %d bytes", len(cur.key))
		}
		h.key = key
	case keyHashTable:
		part := strings.Split(op.Value, ",")
		if len(cur.table)%len(part) != 0 || len(cur.table) == 0 {
			return fmt.Errorf("the device's table has %d entries", len(cur.table))
		}
		for i := range cur.table {
			queue, err := parseUint32(part[i%len(part)])
			if err != nil {
				return err
			}
			h.table = append(h.table, queue)
		}
	}
	return nil
}

func (io ioctls) setFields(ifname, flow, value string) error {
	bits, err := parseFields(value)
	if err != nil {
		return refusal{err}
	}
	for _, f := range hashFlows {
		if f.name == flow {
			return io.ethtool(ifname, fieldsRequest(ethtoolSetHashFields, f.flow, bits))
		}
	}
	return refusal{fmt.Errorf("%q is no kind of flow", flow)}
}

func (io ioctls) getTimestamps(ifname string, n names) (Values, error) {
	cfg, err := unix.IoctlGetHwTstamp(int(io), ifname)
	if err != nil {
		return nil, err
	}
	return Values{
		keyStampTx: nameOf(n[stringsStampTx], cfg.Tx_type),
		keyStampRx: nameOf(n[stringsStampRx], cfg.Rx_filter),
	}, nil
}

// setTimestamps sets both values: there is one request for them.
func (io ioctls) setTimestamps(ifname string, ops []oplog.Op, cur report, n names) error {
	want := Values{keyStampTx: cur.values[keyStampTx], keyStampRx: cur.values[keyStampRx]}
	for _, op := range ops {
		want[op.Key] = op.Value
	}
	tx, err := numberOf(n[stringsStampTx], want[keyStampTx])
	if err != nil {
		return refusal{err}
	}
	rx, err := numberOf(n[stringsStampRx], want[keyStampRx])
	if err != nil {
		return refusal{err}
	}
	return unix.IoctlSetHwTstamp(int(io), ifname, &unix.HwTstampConfig{Tx_type: int32(tx), Rx_filter: int32(rx)})
}

// nameOf returns the kernel's name of a number, or the number.
func nameOf(names []string, i int32) string {
	if i >= 0 && int(i) < len(names) && names[i] != "" {
		return names[i]
	}
	return strconv.Itoa(int(i))
}

func numberOf(names []string, name string) (int, error) {
	if i := slices.Index(names, name); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("the kernel has no time stamps %q", name)
}
