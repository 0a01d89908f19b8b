// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package ctl

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// terminalPause is how long a terminal that was hung up is left alone. Linux hangs up Xen's
// consoles whenever the guest has been restored, makes new ones, and forgets the old ones in a
// work item (drivers/tty/tty_io.c, release_one_tty). Who opens one before that is given the old
// one (drivers/tty/hvc/hvc_console.c, hvc_get_by_index): the next restore does not hang that
// up, but its interrupts end, and nothing that the host sends is read.
const terminalPause = time.Second

// ServeTerminal serves the terminal at path until ctx ends, which is no error. It is as
// [Server.ServePort] for hosts whose port to a guest is a console, such as Xen's.
func (s *Server) ServeTerminal(ctx context.Context, path string) error {
	return s.serveAgain(ctx, path, terminalPause, func() (io.ReadWriteCloser, error) {
		return retry(ctx, "terminal "+path, func() (*os.File, error) { return openTerminal(path) })
	})
}

// openTerminal opens a terminal that passes on every byte as it is (termios(3), "Raw
// mode").
func openTerminal(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err := makeRaw(fd); err != nil {
		return nil, &fs.PathError{Op: "set raw mode", Path: path, Err: errors.Join(err, unix.Close(fd))}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}
