// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package demo

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// A view writes what happens, line by line, with the time since its start. On
// a terminal it keeps a status at the end; elsewhere it writes the status now
// and then.
type view struct {
	w     io.Writer
	live  bool
	begin time.Time

	mu     sync.Mutex
	status string
}

const (
	liveRefresh  = 200 * time.Millisecond
	plainRefresh = 5 * time.Second
)

func newView(w io.Writer, live bool) *view { return &view{w: w, live: live, begin: time.Now()} }

// say writes one line.
func (v *view) say(line string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	fmt.Fprintf(v.w, "%6.1fs  %s\n", time.Since(v.begin).Seconds(), line)
	v.draw()
}

// follow shows what status returns until stop is called.
func (v *view) follow(status func() string) (stop func()) {
	every := plainRefresh
	if v.live {
		every = liveRefresh
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			s := status()
			switch {
			case s == "":
			case v.live:
				v.mu.Lock()
				v.clear()
				v.status = s
				v.draw()
				v.mu.Unlock()
			default:
				v.say("  " + s)
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// close takes the status off the screen.
func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	v.status = ""
}

func (v *view) clear() {
	if v.live && v.status != "" {
		fmt.Fprint(v.w, "\r\x1b[2K")
	}
}

func (v *view) draw() {
	if v.live && v.status != "" {
		fmt.Fprintf(v.w, "        \x1b[7m %s \x1b[0m", v.status)
	}
}
