// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package harvest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// errNoSymbols reports that the kernel does not tell its functions' addresses.
var errNoSymbols = errors.New("no addresses of kernel functions")

const maxSpans = 8 // SPANS in bpf/harvest.c

// span is the code of one kernel function: struct span in bpf/harvest.c.
type span struct {
	Start, End uint64
	Origin     uint64
}

// origins names the functions that free a frame which is not in the driver
// (net/sched/sch_generic.c, net/core/rtnetlink.c, net/core/skbuff.c of 6.1).
// A function that inlines kfree_skb() is itself the tracepoint's location.
var origins = map[string]origin{
	"qdisc_reset":           fromRequeued, // its gso_skb and skb_bad_txq lists
	"pfifo_fast_reset":      fromQueued,
	"__rtnl_unlock":         fromQueued,  // all that used rtnl_kfree_skbs(), fq_codel for one
	"kfree_skb_list_reason": fromRefused, // __dev_xmit_skb()
	"kfree_skb_list":        fromRefused, // the same before 5.19
	"drop_func":             fromRefused, // fq_codel, what has waited too long
}

func readSpans() ([maxSpans]span, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return [maxSpans]span{}, fmt.Errorf("%w: %w", errNoSymbols, err)
	}
	defer f.Close()
	return parseSpans(f)
}

// parseSpans finds the functions of origins in the text form of /proc/kallsyms,
// which lists the kernel's own symbols by address. A function ends where the next
// symbol begins. Suffixes that compilers add (".isra.0") are ignored.
func parseSpans(r io.Reader) ([maxSpans]span, error) {
	var spans [maxSpans]span
	n, open := 0, 0 // spans[open:n] have no end yet
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasSuffix(line, "]") { // modules follow the kernel
			break
		}
		address, rest, ok := strings.Cut(line, " ")
		if !ok || len(rest) < 3 {
			continue
		}
		if open == n {
			if _, wanted := origins[base(rest[2:])]; !wanted {
				continue
			}
		}
		at, err := strconv.ParseUint(address, 16, 64)
		if err != nil || at == 0 {
			continue
		}
		for open < n && at > spans[open].Start {
			for i := open; i < n; i++ {
				spans[i].End = at
			}
			open = n
		}
		if o, wanted := origins[base(rest[2:])]; wanted && n < maxSpans && (rest[0] == 't' || rest[0] == 'T') {
			spans[n] = span{Start: at, Origin: uint64(o)}
			n++
		}
	}
	if err := lines.Err(); err != nil {
		return spans, fmt.Errorf("read kernel symbols: %w", err)
	}
	if n == 0 {
		return spans, errNoSymbols
	}
	return spans, nil
}

func base(symbol string) string {
	name, _, _ := strings.Cut(symbol, ".")
	return name
}
