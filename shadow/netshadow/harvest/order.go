// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"
)

// order sorts freed frames into the order in which they would have been sent.
//
// Frames of the driver come first, then those of the queueing discipline, then
// those that it refused; what was freed on the proxy or the port is behind all of the
// device's.
// Within each, they stay in the order in which they were freed, save that a driver
// frees its ring by index, not by age: see unrotate and unshuffle.
func order(samples []sample) []sample {
	slices.SortStableFunc(samples, func(a, b sample) int {
		return cmp.Or(
			compareBool(a.behind, b.behind),
			cmp.Compare(a.origin, b.origin),
			compareBool(b.early, a.early),
			compareQueue(a, b),
			cmp.Compare(a.number, b.number),
		)
	})
	for rest := samples; len(rest) > 0; {
		n := 1
		for n < len(rest) && sameRing(rest[n-1], rest[n]) {
			n++
		}
		if rest[0].origin == fromDriver {
			unrotate(rest[:n])
			unshuffle(rest[:n])
		}
		rest = rest[n:]
	}
	return samples
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// compareQueue keeps each ring together. Queues of the queueing discipline are
// purged one after the other anyway.
func compareQueue(a, b sample) int {
	if a.origin != fromDriver {
		return 0
	}
	return cmp.Compare(a.queue, b.queue)
}

// betweenResets is less than what passes from one reset of a device to the next, and more
// than its driver takes to free what was in the ring.
const betweenResets = time.Second

// sameRing reports whether b, next to a in order, was in a ring with it.
func sameRing(a, b sample) bool {
	return a.origin == b.origin && a.behind == b.behind && a.early == b.early && a.queue == b.queue &&
		(!a.early || b.lost()-a.lost() < betweenResets)
}

// unrotate puts a ring that was freed from index 0 on into the order of age, in
// place. The oldest frame sits at some index in the middle of a ring that has
// wrapped, so the frames are a rotation of their order. The turning point is where
// the most flows jump back in their own numbering (TCP sequence number, IPv4
// identification of UDP); if no flow does, nothing moves.
func unrotate(ring []sample) {
	flows := flowsOf(ring)
	// gain[i] is by how many flows starting at i is better than starting where
	// that flow does not jump back, kept as differences.
	gain := make([]int, len(ring)+1)
	for _, f := range flows {
		for i := 1; i < len(f); i++ {
			if int32(f[i].number-f[i-1].number) < 0 {
				gain[f[i-1].at+1]++
				gain[f[i].at+1]--
			}
		}
		// Turning elsewhere is right for a flow only if its last frame precedes
		// its first.
		if last := len(f) - 1; int32(f[0].number-f[last].number) < 0 {
			gain[f[0].at+1]--
			gain[f[last].at+1]++
		}
	}
	best, start, sum := 0, 0, 0
	for i := range ring {
		if sum += gain[i]; sum > best {
			best, start = sum, i
		}
	}
	if start > 0 {
		copy(ring, slices.Concat(ring[start:], ring[:start]))
	}
}

// unshuffle puts the frames of each flow into the order of their numbering, in the
// places that the flow has. virtio frees by descriptor, and takes the descriptor that
// was freed last for the next frame (drivers/virtio/virtio_ring.c,
// virtqueue_detach_unused_buf), so after a while an index says nothing of age.
func unshuffle(ring []sample) {
	for _, f := range flowsOf(ring) {
		sorted := slices.Clone(f)
		// Numbers of one ring are close to each other, so they compare around
		// any of them.
		slices.SortStableFunc(sorted, func(a, b place) int {
			return cmp.Compare(int32(a.number-f[0].number), int32(b.number-f[0].number))
		})
		samples := make([]sample, len(f))
		for i, p := range sorted {
			samples[i] = ring[p.at]
		}
		for i, p := range f {
			ring[p.at] = samples[i]
		}
	}
}

// place is where a frame of a flow is, and its place in the flow's numbering.
type place struct {
	at     int
	number uint32
}

// flowsOf returns the flows of a ring whose frames are numbered, each in the
// order of the ring.
func flowsOf(ring []sample) map[string][]place {
	flows := make(map[string][]place)
	for i, s := range ring {
		if key, number, ok := numbered(s.data); ok {
			flows[key] = append(flows[key], place{i, number})
		}
	}
	return flows
}

// numbered returns the flow of a frame and its place in that flow's numbering,
// which compares modulo 2^32. Frames without a numbering give false. VLAN tags in
// band, as they are where a device does not insert them, are part of the flow.
func numbered(b []byte) (key string, number uint32, ok bool) {
	const v4, v6, tag, maxTags = 20, 40, 4, 2
	l3 := 14
	for len(b) >= l3+tag && l3 < 14+maxTags*tag && isTag(b[l3-2:]) {
		l3 += tag
	}
	if len(b) < l3+v4 {
		return "", 0, false
	}
	tags, ip := string(b[12:l3-2]), b[l3:]
	switch binary.BigEndian.Uint16(b[l3-2:]) {
	case 0x0800:
		l4 := int(ip[0]&15) * 4
		if len(ip) < l4+8 {
			return "", 0, false
		}
		key = tags + string(ip[9]) + string(ip[12:20]) + string(ip[l4:l4+4])
		switch id := binary.BigEndian.Uint16(ip[4:]); {
		case ip[9] == 6:
			return key, binary.BigEndian.Uint32(ip[l4+4:]), true
		case ip[9] == 17 && id != 0:
			return key, uint32(id) << 16, true
		}
	case 0x86dd:
		if len(ip) >= v6+8 && ip[6] == 6 {
			return tags + string(ip[8:40]) + string(ip[v6:v6+4]), binary.BigEndian.Uint32(ip[v6+4:]), true
		}
	}
	return "", 0, false
}

// isTag reports whether an ether type is that of a VLAN tag.
func isTag(b []byte) bool {
	t := binary.BigEndian.Uint16(b)
	return t == 0x8100 || t == 0x88a8
}
