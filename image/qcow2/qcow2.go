// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package qcow2 turns a raw disk into QEMU's copy-on-write format, version 3
// (QEMU's docs/interop/qcow2.txt): clusters of zeroes take no room. It must never
// know what is on the disk.
package qcow2

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	clusterBits  = 16
	clusterSize  = 1 << clusterBits
	headerLength = 104 // of version 3 without compression type

	refcountOrder    = 4                                      // 16 bits a cluster
	refcountsInBlock = clusterSize * 8 / (1 << refcountOrder) // clusters that a refcount block counts
	entriesInTable   = clusterSize / 8                        // of L1, L2 and the refcount table

	copied = 1 << 63 // flag of an L1 or L2 entry: the cluster's refcount is 1
)

// header is that of the format's version 3, big-endian.
type header struct {
	Magic                 [4]byte
	Version               uint32
	BackingFileOffset     uint64
	BackingFileSize       uint32
	ClusterBits           uint32
	Size                  uint64
	CryptMethod           uint32
	L1Size                uint32
	L1TableOffset         uint64
	RefcountTableOffset   uint64
	RefcountTableClusters uint32
	NbSnapshots           uint32
	SnapshotsOffset       uint64
	IncompatibleFeatures  uint64
	CompatibleFeatures    uint64
	AutoclearFeatures     uint64
	RefcountOrder         uint32
	HeaderLength          uint32
}

// layout says in which cluster of the file what begins. It is: header, refcount
// table, refcount blocks, L1 table, L2 tables, data.
type layout struct {
	size           int64   // of the disk
	data           []int64 // clusters of the disk that hold something
	refcountBlocks int64
	l1             int64
	l2             int64
	l2Tables       int64
	first          int64 // of data
	total          int64
}

// ErrSize: the disk is empty, no multiple of 512 bytes, or too large for one
// cluster of tables.
var ErrSize = errors.New("unsuitable size of a disk")

// Convert writes the raw disk of that name to the new file dst.
func Convert(dst, raw string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("qcow2 of %s: %w", raw, err)
		}
	}()
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	l, err := plan(in)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 1<<20)
	return errors.Join(l.write(w, in), w.Flush(), out.Close())
}

// plan reads the disk and lays out the file.
func plan(in *os.File) (*layout, error) {
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	l := &layout{size: info.Size()}
	clusters := ceil(l.size, clusterSize)
	l.l2Tables = ceil(clusters, entriesInTable)
	if l.size == 0 || l.size%512 != 0 || l.l2Tables > entriesInTable {
		return nil, fmt.Errorf("%w: %d bytes", ErrSize, l.size)
	}
	r := bufio.NewReaderSize(in, 1<<20)
	buf, zeroes := make([]byte, clusterSize), make([]byte, clusterSize)
	for i := range clusters {
		if err := readCluster(r, buf); err != nil {
			return nil, err
		}
		if !bytes.Equal(buf, zeroes) {
			l.data = append(l.data, i)
		}
	}
	l.refcountBlocks = refcountBlocks(3 + l.l2Tables + int64(len(l.data)))
	l.l1 = 2 + l.refcountBlocks
	l.l2 = l.l1 + 1
	l.first = l.l2 + l.l2Tables
	l.total = l.first + int64(len(l.data))
	return l, nil
}

// refcountBlocks returns how many blocks count so many clusters and themselves.
func refcountBlocks(clusters int64) int64 {
	blocks := int64(1)
	for blocks*refcountsInBlock < clusters+blocks {
		blocks++
	}
	return blocks
}

func ceil(n, by int64) int64 { return (n + by - 1) / by }

// readCluster fills buf, with zeroes behind the end of the disk.
func readCluster(r io.Reader, buf []byte) error {
	n, err := io.ReadFull(r, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf[n:])
		return nil
	}
	return err
}

func (l *layout) write(w io.Writer, in io.ReaderAt) error {
	head := make([]byte, clusterSize)
	if _, err := binary.Encode(head, binary.BigEndian, header{
		Magic: [4]byte{'Q', 'F', 'I', 0xfb}, Version: 3, ClusterBits: clusterBits, Size: uint64(l.size),
		L1Size: uint32(l.l2Tables), L1TableOffset: uint64(l.l1 * clusterSize),
		RefcountTableOffset: clusterSize, RefcountTableClusters: 1,
		RefcountOrder: refcountOrder, HeaderLength: headerLength,
	}); err != nil {
		return err
	}
	for _, part := range [][]byte{
		head,
		table(l.refcountBlocks, func(i int64) uint64 { return uint64((2 + i) * clusterSize) }),
		l.refcounts(),
		table(l.l2Tables, func(i int64) uint64 { return copied | uint64((l.l2+i)*clusterSize) }),
		l.l2Content(),
	} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	buf := make([]byte, clusterSize)
	for _, i := range l.data {
		if err := readCluster(io.NewSectionReader(in, i*clusterSize, clusterSize), buf); err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// table returns a cluster with n entries.
func table(n int64, entry func(i int64) uint64) []byte {
	b := make([]byte, clusterSize)
	for i := range n {
		binary.BigEndian.PutUint64(b[8*i:], entry(i))
	}
	return b
}

// refcounts counts every cluster of the file once.
func (l *layout) refcounts() []byte {
	b := make([]byte, l.refcountBlocks*clusterSize)
	for i := range l.total {
		binary.BigEndian.PutUint16(b[2*i:], 1)
	}
	return b
}

// l2Content returns the L2 tables, one behind the other.
func (l *layout) l2Content() []byte {
	b := make([]byte, l.l2Tables*clusterSize)
	for n, i := range l.data {
		binary.BigEndian.PutUint64(b[8*i:], copied|uint64((l.first+int64(n))*clusterSize))
	}
	return b
}
