// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package migrate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/migrate/qmp"
	"github.com/umbra-vm/umbra/migrate/stream"
)

// slow makes a migration that cannot end by itself: the firmware dirties 1 MiB
// over and over, and that much takes longer than the source may stop the guest.
var slow = Options{Direct: []string{"direct-net0"}, BandwidthBps: 1 << 20, DowntimeLimit: 1}

// fault is one thing that goes wrong in a migration.
type fault struct {
	name string

	src, dst machineSpec // added to those of a migration that would work
	opts     Options
	deferred bool
	disk     bool // both machines have the same disk

	// before is called when both machines are up.
	before func(*faultRun)

	// at is the stage at which inject is called; at StageRAM, when pages have
	// passed.
	at     Stage
	inject func(*faultRun)

	want []error
	text string // part of the error's text
}

// faultRun is what a fault can get hold of.
type faultRun struct {
	t        *testing.T
	ctx      context.Context
	cancel   context.CancelCauseFunc
	src, dst *vm
	opts     *Options
}

var errEnough = errors.New("the user has had enough")

func TestFailureLeavesTheSourceRunning(t *testing.T) {
	cancel := func(r *faultRun) { r.cancel(errEnough) }
	killDestination := func(r *faultRun) {
		r.dst.kill()
		<-r.dst.qmp.Done()
	}
	for _, tt := range []fault{
		{
			name: "destination dies while RAM is sent",
			opts: slow, at: StageRAM, inject: killDestination,
			want: []error{ErrDestinationLost, stream.ErrForward},
		}, {
			name: "destination dies when it has all device state but the end mark",
			at:   StageForwarded, inject: killDestination,
			want: []error{ErrDestinationLost},
		}, {
			name: "destination dies when it has loaded the guest",
			at:   StageLoaded, inject: killDestination,
			want: []error{ErrDestinationLost},
		}, {
			name: "connection to the destination is cut while RAM is sent",
			opts: slow, before: func(r *faultRun) { r.opts.Incoming = cutAfter(r.t, r.opts.Incoming, 300<<10) },
			want: []error{stream.ErrForward},
		}, {
			name: "context ends while RAM is sent",
			opts: slow, at: StageRAM, inject: cancel,
			want: []error{errEnough},
		}, {
			name: "context ends when the guest is stopped and device state is kept back",
			at:   StageDeviceState, inject: cancel,
			want: []error{errEnough},
		}, {
			name: "context ends when the destination has all device state but the end mark",
			at:   StageForwarded, inject: cancel,
			want: []error{errEnough},
		}, {
			name: "context ends when the destination has loaded the guest",
			at:   StageLoaded, inject: cancel,
			want: []error{errEnough},
		}, {
			name: "context ends when the destination has loaded the guest, whose disk both have",
			disk: true, at: StageLoaded, inject: cancel,
			want: []error{errEnough},
		}, {
			name: "somebody cancels the migration at the source",
			opts: slow, at: StageRAM,
			inject: func(r *faultRun) {
				if err := r.src.qmp.Execute(r.ctx, "migrate_cancel", nil, nil); err != nil {
					r.t.Error(err)
				}
			},
			want: []error{ErrCancelled, stream.ErrTruncated},
		}, {
			name: "destination lacks a device whose state is not dropped",
			src:  machineSpec{extra: []string{"-device", "virtio-rng-pci,addr=6"}},
			want: []error{ErrDestinationLost},
		}, {
			name: "destination is another machine type",
			dst:  machineSpec{machine: "q35"},
			want: []error{ErrDestinationLost},
		}, {
			name:   "nobody listens where the destination should",
			before: func(r *faultRun) { r.opts.Incoming += "-elsewhere" },
			want:   []error{os.ErrNotExist},
			text:   "connect to the destination",
		}, {
			name:   "address of the destination is nonsense",
			before: func(r *faultRun) { r.opts.Incoming = "fd:3" },
			text:   "want unix:PATH or tcp:HOST:PORT",
		}, {
			name:     "port at which the destination should listen is in use",
			deferred: true,
			before: func(r *faultRun) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					r.t.Fatal(err)
				}
				r.t.Cleanup(func() { l.Close() })
				r.opts.Incoming = "tcp:" + l.Addr().String()
			},
			text: "Address already in use",
		}, {
			name: "direct-access device does not exist",
			opts: Options{Direct: []string{"direct-net7"}},
			want: []error{ErrNoDevice},
			text: `resolve device "direct-net7"`,
		}, {
			name:   "XBZRLE is on",
			before: func(r *faultRun) { r.capability(r.src, "xbzrle") },
			want:   []error{ErrCapability},
			text:   "xbzrle is on",
		}, {
			name:   "multifd is on at the destination",
			before: func(r *faultRun) { r.capability(r.dst, "multifd") },
			want:   []error{ErrCapability},
			text:   "multifd is on",
		}, {
			name:   "compress is on",
			before: func(r *faultRun) { r.capability(r.src, "compress") },
			want:   []error{ErrCapability},
			text:   "compress is on",
		}, {
			name:   "postcopy is on",
			before: func(r *faultRun) { r.capability(r.src, "postcopy-ram") },
			want:   []error{ErrCapability},
			text:   "postcopy-ram is on",
		}, {
			name: "destination refuses to go on",
			before: func(r *faultRun) {
				r.dst.qmp = brokenMonitor(r, func(line string, out, _ net.Conn) bool {
					_, rest, _ := strings.Cut(line, `"id":"`)
					id, _, _ := strings.Cut(rest, `"`)
					fmt.Fprintf(out, `{"id":%q,"error":{"class":"GenericError","desc":"Failed to get \"write\" lock"}}`+"\n", id)
					return true
				})
			},
			text: `Failed to get "write" lock`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newFaultRun(t, tt)
			line := r.src.pic(r.ctx)
			if !line.asserted("pc") {
				t.Fatalf("line not asserted: %+v", line)
			}
			_, err := r.run(tt)
			if err == nil {
				t.Fatal("migration succeeded")
			}
			t.Log(err)
			for _, want := range tt.want {
				if !errors.Is(err, want) {
					t.Errorf("error %q does not match %q", err, want)
				}
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q does not contain %q", err, tt.text)
			}
			if errors.Is(err, ErrSourceNotResumed) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("error %q, want a roll-back", err)
			}

			ctx := testContext(t)
			c := r.src.lives(ctx)
			if c[counterMoved] != 0 {
				t.Error("the source's guest lost its NIC")
			}
			if got := r.src.pic(ctx); !got.asserted("pc") {
				t.Errorf("the NIC's line was %+v, now %+v", line, got)
			}
			if status, err := r.dst.qmp.Status(ctx); err == nil && status == "running" {
				t.Error("the destination runs as well")
			}
		})
	}
}

// A destination which was told to run and did not answer may run: then the
// source must not.
func TestUnknownOutcomeLeavesTheSourceStopped(t *testing.T) {
	for _, tt := range []struct {
		name string
		pass bool // whether the destination gets the command
	}{
		{"monitor dies before the destination gets to know", false},
		{"monitor dies before the destination's answer", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := fault{before: func(r *faultRun) {
				r.dst.qmp = brokenMonitor(r, func(line string, sender, qemu net.Conn) bool {
					sender.Close()
					if tt.pass {
						io.WriteString(qemu, line)
					}
					return false
				})
			}}
			r := newFaultRun(t, f)
			_, err := r.run(f)
			if !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, ErrDestinationLost) {
				t.Fatalf("error %v, want %v", err, ErrUnknownOutcome)
			}
			r.src.stands(r.ctx)
			if tt.pass {
				r.dst.lives(r.ctx)
			} else {
				r.dst.stands(r.ctx)
			}
		})
	}
}

func TestSourceDies(t *testing.T) {
	t.Parallel()
	f := fault{opts: slow, at: StageRAM, inject: func(r *faultRun) {
		r.src.kill()
		<-r.src.qmp.Done()
	}}
	r := newFaultRun(t, f)
	_, err := r.run(f)
	if !errors.Is(err, ErrSourceLost) || !errors.Is(err, ErrSourceNotResumed) {
		t.Errorf("error %v, want %v and %v", err, ErrSourceLost, ErrSourceNotResumed)
	}
	if status, err := r.dst.qmp.Status(r.ctx); err == nil && status == "running" {
		t.Error("the destination runs half a guest")
	}
}

func TestRefusesMachinesInTheWrongState(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	a := startVM(ctx, t, "a", machineSpec{machine: "pc", nic: nicE1000})
	b := startVM(ctx, t, "b", machineSpec{machine: "pc", nic: nicE1000})
	if _, err := Run(ctx, a.qmp, b.qmp, Options{Incoming: "unix:/nowhere"}); !errors.Is(err, ErrNotIncoming) {
		t.Errorf("to a running machine: error %v, want %v", err, ErrNotIncoming)
	}
	b.lives(ctx)
	if err := a.qmp.Execute(ctx, "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(ctx, a.qmp, b.qmp, Options{Incoming: "unix:/nowhere"}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("from a paused machine: error %v, want %v", err, ErrNotRunning)
	}
}

// A process that runs the relay can be killed at any time, with nobody left to
// roll back.
func TestRelayProcessKilled(t *testing.T) {
	for _, tt := range []struct {
		name  string
		stage Stage
		opts  Options
		cont  bool // the source has to be told to go on
	}{
		{"while RAM is sent: the source goes on by itself", StageRAM, slow, false},
		{"before the point of no return: the source goes on when it is told to", StageLoaded, Options{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newFaultRun(t, fault{opts: tt.opts})
			killRelayProcess(r, tt.stage)
			if tt.cont {
				r.src.stands(r.ctx)
				r.dst.stands(r.ctx)
				if err := r.src.qmp.Execute(r.ctx, "cont", nil, nil); err != nil {
					t.Fatal(err)
				}
			}
			r.src.lives(r.ctx)
			if status, err := r.dst.qmp.Status(r.ctx); err == nil && status == "running" {
				t.Error("the destination runs as well")
			}
		})
	}
}

// killRelayProcess migrates in another process, which it kills at a stage.
func killRelayProcess(r *faultRun, stage Stage) {
	t := r.t
	relay := exec.Command(os.Args[0])
	relay.Env = append(os.Environ(), relayEnv+"="+strings.Join([]string{
		filepath.Join(r.src.dir, "qmp2"), filepath.Join(r.dst.dir, "qmp2"), r.opts.Incoming, string(stage),
	}, ","))
	relay.Stderr = os.Stderr
	out, err := relay.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	relay.Process.Kill()
	relay.Wait()
	if err != nil || line != string(stage)+"\n" {
		t.Fatalf("relay process said %q, %v", line, err)
	}
}

const relayEnv = "UMBRA_MIGRATE_TEST_RELAY"

func TestMain(m *testing.M) {
	if v := os.Getenv(relayEnv); v != "" {
		if err := relayProcess(strings.Split(v, ",")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func relayProcess(args []string) error {
	ctx := context.Background()
	src, err := qmp.Dial(ctx, args[0])
	if err != nil {
		return err
	}
	dst, err := qmp.Dial(ctx, args[1])
	if err != nil {
		return err
	}
	opts, stage := slow, Stage(args[3])
	if stage != StageRAM {
		opts.BandwidthBps, opts.DowntimeLimit = 0, 0
	}
	opts.Incoming = args[2]
	opts.OnEvent = func(e Event) {
		if e.Stage == stage && e.Progress.Pages > 0 {
			fmt.Println(stage)
			select {} // until it is killed
		}
	}
	_, err = Run(ctx, src, dst, opts)
	return err
}

func newFaultRun(t *testing.T, f fault) *faultRun {
	ctx, cancel := context.WithCancelCause(testContext(t))
	t.Cleanup(func() { cancel(nil) })
	r := &faultRun{t: t, ctx: ctx, cancel: cancel, opts: &f.opts}
	if r.opts.Direct == nil {
		r.opts.Direct = []string{"direct-net0"}
	}
	r.opts.Incoming, r.opts.Deferred = incomingAddr(t), f.deferred

	spec := func(s machineSpec) machineSpec {
		if s.machine == "" {
			s.machine = "pc"
		}
		return s
	}
	src, dst := spec(f.src), spec(f.dst)
	src.nic, src.assert = nicE1000, true
	dst.nic, dst.incoming = nicRTL8139, r.opts.Incoming
	if f.deferred {
		dst.incoming = "defer"
	}
	if f.disk {
		args := diskArgs(t)
		src.extra, dst.extra = append(src.extra, args...), append(dst.extra, args...)
	}
	r.src = startVM(ctx, t, "source", src)
	r.dst = startVM(ctx, t, "destination", dst)
	r.src.lives(ctx)
	return r
}

func (r *faultRun) run(f fault) (*Report, error) {
	r.t.Helper()
	direct := r.dst.qmp
	defer func() { r.dst.qmp = direct }()
	if f.before != nil {
		f.before(r)
	}
	fired := f.inject == nil
	r.opts.OnEvent = func(e Event) {
		if !fired && e.Stage == f.at && (e.Stage != StageRAM || e.Progress.Pages > 0) {
			fired = true
			f.inject(r)
		}
	}
	rep, err := Run(r.ctx, r.src.qmp, r.dst.qmp, *r.opts)
	if !fired {
		r.t.Fatalf("stage %q never came; error %v", f.at, err)
	}
	return rep, err
}

func (r *faultRun) capability(v *vm, name string) {
	if err := setCapabilities(r.ctx, v.qmp, name); err != nil {
		r.t.Fatal(err)
	}
}

// cutAfter stands before a UNIX socket and cuts the connection when n bytes have
// passed. It returns its own address.
func cutAfter(t *testing.T, to string, n int64) string {
	addr := incomingAddr(t)
	l, err := net.Listen("unix", strings.TrimPrefix(addr, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("unix", strings.TrimPrefix(to, "unix:"))
		if err != nil {
			return
		}
		defer out.Close()
		io.CopyN(out, in, n)
	}()
	return addr
}

// brokenMonitor is a monitor of the destination whose command "cont" is handled
// by handle instead: it may write to whoever sent it and to QEMU, and returns
// false to break the connection.
func brokenMonitor(r *faultRun, handle func(line string, sender, qemu net.Conn) bool) *qmp.Client {
	qemu, err := net.Dial("unix", filepath.Join(r.dst.dir, "qmp2"))
	if err != nil {
		r.t.Fatal(err)
	}
	sender, client := net.Pipe()
	r.t.Cleanup(func() { sender.Close(); qemu.Close() })
	go io.Copy(sender, qemu)
	go func() {
		defer sender.Close() // QEMU's end stays, so that it does what it was told
		lines := bufio.NewReader(sender)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if strings.Contains(line, `"execute":"cont"`) {
				if !handle(line, sender, qemu) {
					return
				}
				continue
			}
			if _, err := io.WriteString(qemu, line); err != nil {
				return
			}
		}
	}()
	c, err := qmp.New(r.ctx, client)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}
