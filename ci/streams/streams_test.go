// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package streams

import (
	"net"
	"sync/atomic"
	"testing"
)

// counting is a connection that counts what is written to it.
type counting struct {
	net.Conn
	written atomic.Int64
	enough  chan struct{} // is sent to once when several things have been written
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if c.written.Add(int64(n)) >= 3*question {
		select {
		case c.enough <- struct{}{}:
		default:
		}
	}
	return n, err
}

func TestEachKindTransportsWhatItSays(t *testing.T) {
	for _, k := range Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			a, b := net.Pipe()
			guest := &counting{Conn: a, enough: make(chan struct{}, 1)}
			peer := &counting{Conn: b, enough: make(chan struct{}, 1)}
			ended := make(chan error, 2)
			go func() { ended <- k.dial(guest) }()
			go func() { ended <- k.listen(peer) }()
			if k.FromGuest {
				<-guest.enough
			}
			if k.ToGuest {
				<-peer.enough
			}
			a.Close()
			b.Close()
			for range 2 {
				if err := <-ended; err == nil {
					t.Error("an end whose connection was closed says that all is well")
				}
			}
			if got := guest.written.Load() > 0; got != k.FromGuest {
				t.Errorf("the guest sends: %t, want %t", got, k.FromGuest)
			}
			if got := peer.written.Load() > 0; got != k.ToGuest {
				t.Errorf("the peer sends: %t, want %t", got, k.ToGuest)
			}
		})
	}
}
