// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apptests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/umbra-vm/umbra/ci/rig"
	"github.com/umbra-vm/umbra/ci/testbed"
	"golang.org/x/crypto/ssh"
)

// shell runs commands in a guest.
type shell struct {
	ctx  context.Context
	conn *ssh.Client
}

// dial connects to the sshd of a guest, once it is there.
func dial(ctx context.Context, t *testing.T, bed *testbed.Bed, addr netip.Addr, key ed25519.PrivateKey) *shell {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	}
	for {
		conn, err := connect(ctx, bed, netip.AddrPortFrom(addr, 22), cfg)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return &shell{ctx, conn}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("sshd at %s: %v", addr, err)
		case <-time.After(rig.Poll):
		}
	}
}

func connect(ctx context.Context, bed *testbed.Bed, to netip.AddrPort, cfg *ssh.ClientConfig) (*ssh.Client, error) {
	const patience = 20 * time.Second // with a guest that does not answer yet
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := bed.Peer.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, to.String(), cfg)
	if err != nil || !stop() {
		conn.Close()
		return nil, fmt.Errorf("ssh %s: %w", to, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

// A job is a command that runs.
type job struct {
	command string
	session *ssh.Session
	out     bytes.Buffer
	errs    bytes.Buffer
	done    chan struct{}
	err     error // once it is done
}

// start starts a command.
func (s *shell) start(command string) (*job, error) {
	session, err := s.conn.NewSession()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	j := &job{command: command, session: session, done: make(chan struct{})}
	session.Stdout, session.Stderr = &j.out, &j.errs
	if err := session.Start(command); err != nil {
		session.Close()
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	go func() {
		defer close(j.done)
		j.err = session.Wait()
	}()
	return j, nil
}

// wait waits for the command's end and returns what it printed. A status that is
// not 0 is an error.
func (j *job) wait(ctx context.Context) (string, error) {
	if j.running() {
		select {
		case <-j.done:
		case <-ctx.Done():
			// sshd says that a session is over when its command is, and that may hang.
			j.session.Signal(ssh.SIGKILL)
			j.session.Close()
			return "", fmt.Errorf("%s: %w", j.command, context.Cause(ctx))
		}
	}
	if j.err != nil {
		return j.out.String(), fmt.Errorf("%s: %w\n%s%s", j.command, j.err, j.out.String(), j.errs.String())
	}
	return j.out.String(), nil
}

func (j *job) running() bool {
	select {
	case <-j.done:
		return false
	default:
		return true
	}
}

// run is start and wait, without the white space around what was printed.
func (s *shell) run(command string) (string, error) {
	j, err := s.start(command)
	if err != nil {
		return "", err
	}
	out, err := j.wait(s.ctx)
	return strings.TrimSpace(out), err
}

// must is run for what has to succeed.
func (s *shell) must(t *testing.T, command string) string {
	t.Helper()
	out, err := s.run(command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// until repeats a command, which has to exist, until it succeeds.
func (s *shell) until(t *testing.T, command string) {
	t.Helper()
	for {
		_, err := s.run(command)
		if err == nil {
			return
		}
		const notFound = 127 // sh(1)
		if exit := new(ssh.ExitError); errors.As(err, &exit) && exit.ExitStatus() == notFound {
			t.Fatal(err)
		}
		select {
		case <-s.ctx.Done():
			t.Fatal(err)
		case <-time.After(rig.Poll):
		}
	}
}

// A terminal is a session that somebody types into.
type terminal struct {
	in    io.Writer
	lines chan string
}

// open starts a command on a terminal.
func (s *shell) open(t *testing.T, command string) *terminal {
	t.Helper()
	session, err := s.conn.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	if err := session.RequestPty("dumb", 24, 80, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
		t.Fatal(err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(command); err != nil {
		t.Fatal(err)
	}
	term := &terminal{in, make(chan string, 100)}
	go func() {
		defer close(term.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case term.lines <- lines.Text():
			case <-s.ctx.Done():
				return
			}
		}
	}()
	return term
}

// process asks the shell on the terminal which process it is.
func (term *terminal) process(ctx context.Context) (string, error) {
	// What is typed, and echoed, must not look like the answer.
	if _, err := io.WriteString(term.in, "echo process'='$$\n"); err != nil {
		return "", err
	}
	for {
		select {
		case line, ok := <-term.lines:
			if !ok {
				return "", errors.New("the session has ended")
			}
			if m := answer.FindStringSubmatch(line); m != nil {
				return m[1], nil
			}
		case <-ctx.Done():
			return "", fmt.Errorf("the session does not answer: %w", context.Cause(ctx))
		}
	}
}

var answer = regexp.MustCompile(`process=(\d+)`)
