// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Statusd serves a guest's state over HTTP: see package page. PID 1 starts it, and only
// in images whose configuration asks for it.
//
// It is a program of its own because it is the one that strangers speak with: PID 1 gives
// it no privilege, it knows of the agent no more than a socket that changes nothing, and
// what HTTP and TLS weigh is in no other process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/init/statusd/internal/page"
	"github.com/umbra-vm/umbra/init/statusd/internal/state"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// maxConns bounds how many clients are served at once.
const maxConns = 32

type options struct{ listen, iface, agent string }

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:9100", "`address:port` to listen on")
	flag.StringVar(&o.iface, "interface", "", "network interface that clients have to come by; any if empty")
	flag.StringVar(&o.agent, "agent", ctl.LookPath, "`socket` of the agent")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: untimed}))
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, o, log); err != nil {
		log.Error("the status page ends", "err", err)
		os.Exit(1)
	}
}

// untimed leaves out the time, which PID 1 puts before every line.
func untimed(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// run serves until ctx ends, which is no error.
func run(ctx context.Context, o options, log *slog.Logger) error {
	lc := net.ListenConfig{Control: bindTo(o.iface)}
	l, err := lc.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	log.Info("the status page is served", "at", l.Addr())
	srv := server(page.New(state.NewReader(o.agent), log), log)
	defer context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if srv.Shutdown(limit) != nil {
			srv.Close()
		}
	})()
	if err := srv.Serve(netutil.LimitListener(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// server bounds what clients may cost that are slow, or say much.
func server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// bindTo has a socket take only what comes by an interface, whatever address it is for.
func bindTo(iface string) func(network, address string, c syscall.RawConn) error {
	if iface == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var bindErr error
		err := c.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), iface) })
		if err == nil && bindErr != nil {
			err = fmt.Errorf("interface %s: %w", iface, bindErr)
		}
		return err
	}
}
