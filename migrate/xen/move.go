// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package xen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/umbra-vm/umbra/migrate"
	"github.com/umbra-vm/umbra/migrate/remote"
	"github.com/umbra-vm/umbra/migrate/xen/pcifront"
)

// A Report describes a move that succeeded. Times are this machine's.
type Report struct {
	// Total is the time that Move took, until the guest ran again.
	Total time.Duration

	// Downtime is at most how long the guest stood still: from the command that stops
	// it to the end of the one that starts it.
	Downtime time.Duration

	StoppedAt, ResumedAt time.Time

	// Bytes have gone through this process.
	Bytes int64

	// Left counts the devices that stayed behind.
	Left int
}

const (
	// carryTimeout is how long a transfer may take. It is for what hangs.
	carryTimeout = 6 * time.Hour

	// cutTimeout is how long a way whose stream was cut may take to tell the other end; then
	// it is ended, which tells it too.
	cutTimeout = 5 * time.Second

	// endTimeout is how long xl may take to notice that its stream was cut.
	endTimeout = 2 * time.Minute

	// resumePoll is how often it is looked whether xl has resumed it.
	resumePoll = time.Second

	// attempts to start the domain, if it is not known whether it was: to start it
	// again does no harm.
	attempts = 3

	// progressEvery is the time between two reports of how much was carried.
	progressEvery = 5 * time.Second
)

// saveLine writes the domain to standard output. Without SIGPIPE, xl notices that its
// stream was cut and resumes the domain. What opens the stream by its path, as xl does,
// needs a pipe: standard output may be ssh's socket. The shell of a pipe tells the status
// of its last command: that of xl comes by descriptor 5.
const saveLine = `trap '' PIPE; exec 3>&1; r=$( { { xl save -p %s /proc/self/fd/4 4>&1 >&2; echo $? >&5; } | cat >&3; } 5>&1 ); exit $r`

// restoreLine makes a paused domain of what comes by standard input.
const restoreLine = `cat | xl restore -p %s /proc/self/fd/0 >&2`

// Move moves the domain. It returns when the guest runs on the destination, or when the
// attempt is over and, as the package comment explains, the source runs again. ctx ends
// it at any time before the point of no return.
//
// Errors are an *Error around [ErrSourceLeft] or [ErrNoDevices], with which there is a report,
// [migrate.ErrUnknownOutcome], [migrate.ErrSourceNotResumed], those of the hosts, and the
// cause of the end of ctx.
func (p *Plan) Move(ctx context.Context) (*Report, error) {
	r := &Report{Left: len(p.domain.PCI), StoppedAt: time.Now()}
	began := r.StoppedAt
	err := p.carry(ctx, r)
	if err == nil {
		err = context.Cause(ctx)
	}
	give := func() error { return nil }
	if err == nil && p.page != "" {
		lines, giveUp := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer giveUp()
		give, err = p.answer(ctx, lines)
	}
	if err != nil {
		return nil, p.rollBack(ctx, err)
	}
	if err := p.start(ctx); err != nil {
		if errors.Is(err, migrate.ErrUnknownOutcome) {
			return nil, p.failed(ctx, err)
		}
		return nil, p.rollBack(ctx, err)
	}
	r.ResumedAt = time.Now()
	r.Total, r.Downtime = r.ResumedAt.Sub(began), r.ResumedAt.Sub(r.StoppedAt)
	if err := errors.Join(give(), p.remove(ctx)); err != nil {
		return r, p.failed(ctx, err)
	}
	return r, nil
}

// carry makes a paused copy of the domain on the destination, and leaves it paused on the
// source. It returns when nothing is under way any more.
func (p *Plan) carry(ctx context.Context, r *Report) error {
	p.step(Step{Op: StepCarry})
	stream, in := io.Pipe()
	passed := &counter{w: in}
	// The end of ctx cuts the stream, and xl ends by itself. Not before the time for
	// that is over, its lines are given up.
	lines, giveUp := context.WithTimeout(context.WithoutCancel(ctx), carryTimeout)
	defer giveUp()
	defer context.AfterFunc(ctx, func() {
		stream.CloseWithError(context.Cause(ctx))
		in.CloseWithError(context.Cause(ctx))
		time.AfterFunc(cutTimeout, giveUp)
	})()
	told := p.tell(passed)
	// The end of one side is that of the other: what came first is what has failed.
	first, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	defer fail(nil)
	var sides sync.WaitGroup
	sides.Go(func() {
		err := p.src.Run(lines, fmt.Sprintf(saveLine, quote(p.opts.Domain)), nil, passed)
		if err != nil {
			fail(err)
		}
		in.CloseWithError(err) // or the end of the stream
	})
	sides.Go(func() {
		err := p.dst.Run(lines, fmt.Sprintf(restoreLine, quote(p.file)), stream, io.Discard)
		if err != nil {
			fail(err)
		}
		stream.CloseWithError(errCut)
	})
	sides.Wait()
	err := context.Cause(first)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	told()
	r.Bytes = passed.n.Load()
	p.step(Step{Op: StepCarry, Bytes: r.Bytes, Over: true, Err: err})
	return err
}

// errCut is what the source's stream ends with, if the destination takes no more.
var errCut = errors.New("the destination takes no more")

// tell says now and then how much was carried, until it is told to stop.
func (p *Plan) tell(c *counter) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				if n := c.n.Load(); n > 0 {
					p.step(Step{Op: StepCarry, Bytes: n})
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n atomic.Int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// start is the point of no return.
func (p *Plan) start(ctx context.Context) (err error) {
	p.step(Step{Op: StepStart})
	defer func() { p.step(Step{Op: StepStart, Over: true, Err: err}) }()
	for range attempts {
		err = do(ctx, p.dst, "xl unpause "+quote(p.there.Create.Name))
		if err == nil {
			return nil
		}
		if errors.Is(err, remote.ErrCommand) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", migrate.ErrUnknownOutcome, err)
}

// answer has the destination answer for the devices that a paravirtual guest has left, until
// lines ends. It returns when the guest may be started, with what gives it the destination's
// devices after that.
func (p *Plan) answer(ctx, lines context.Context) (give func() error, err error) {
	out := watched{ready: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- p.dst.Run(lines, "umbra pcifront "+quote(p.there.Create.Name)+" "+quote(p.page), nil, &out)
	}()
	select {
	case <-out.ready:
	case err = <-ended:
		err = cmp.Or(err, errors.New("it ended before the guest ran"))
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(commandTimeout):
		err = fmt.Errorf("not ready after %v", commandTimeout)
	}
	if err != nil {
		return nil, fmt.Errorf("answering for the guest's devices: %w", err)
	}
	return func() (err error) {
		p.step(Step{Op: StepGive})
		defer func() { p.step(Step{Op: StepGive, Over: true, Err: err}) }()
		if err := <-ended; err != nil {
			return fmt.Errorf("%w: it has not given up those that it had: %w", ErrNoDevices, err)
		}
		for _, d := range p.there.PCI {
			if err := do(ctx, p.dst, attachLine(p.there.Create.Name, d)); err != nil {
				return fmt.Errorf("%w: %w", ErrNoDevices, err)
			}
		}
		return nil
	}, nil
}

// attachLine gives a domain a device of its host.
func attachLine(domain string, d passed) string {
	return fmt.Sprintf("xl pci-attach %s %s", quote(domain), d.spec())
}

// answerTimeout is how long a guest may take to give its old devices up. It is for what hangs.
const answerTimeout = 15 * time.Minute

// watched is output that is waited for.
type watched struct {
	got   strings.Builder
	seen  bool
	ready chan struct{} // closed when there is a line that says so
}

func (w *watched) Write(b []byte) (int, error) {
	w.got.Write(b)
	if !w.seen && strings.Contains(w.got.String(), pcifront.Ready+"\n") {
		w.seen = true
		close(w.ready)
	}
	return len(b), nil
}

// remove ends the source's copy, by its number, which no other domain can have.
func (p *Plan) remove(ctx context.Context) (err error) {
	p.step(Step{Op: StepRemove})
	defer func() { p.step(Step{Op: StepRemove, Over: true, Err: err}) }()
	if err = do(ctx, p.src, fmt.Sprintf("xl destroy %d", p.id)); err != nil {
		return fmt.Errorf("%w: %w", ErrSourceLeft, err)
	}
	return nil
}

// rollBack makes the source run the domain again, after cause has ended the attempt
// before the point of no return.
func (p *Plan) rollBack(ctx context.Context, cause error) error {
	p.step(Step{Op: StepReturn})
	err := p.giveBack(ctx)
	p.step(Step{Op: StepReturn, Over: true, Err: err})
	if err != nil {
		cause = errors.Join(cause, err)
	}
	return p.failed(ctx, cause)
}

// giveBack first makes sure that the destination does not run the domain, nor ever will.
func (p *Plan) giveBack(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var left error
	// A destination that does not answer was never told to start it, and does not by
	// itself.
	if there, err := list(ctx, p.dst); err == nil {
		if half, ok := there[p.there.Create.Name]; ok {
			if half.runs() {
				return fmt.Errorf("%w: somebody else has started it there", migrate.ErrUnknownOutcome)
			}
			// It holds the destination's devices and memory, and may be on its way out.
			left = do(ctx, p.dst, fmt.Sprintf("xl destroy %d", half.id))
			if there, err = list(ctx, p.dst); err == nil && there[p.there.Create.Name].flags == "" {
				left = nil
			}
		}
	}
	if err := p.resume(ctx); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", migrate.ErrSourceNotResumed, err), left)
	}
	if p.domain.Create.Type == "pv" {
		return errors.Join(left, p.renew(ctx))
	}
	return left
}

// resume waits until the source runs the domain, which xl sees to where its stream was
// cut, and starts it where that has gone well and the domain is paused.
func (p *Plan) resume(ctx context.Context) error {
	for began := time.Now(); ; {
		here, err := list(ctx, p.src)
		s, ok := here[p.opts.Domain]
		switch {
		case err != nil:
			return err
		case !ok:
			return errors.New("it is not there")
		case s.runs():
			return nil
		case s.paused():
			if err := do(ctx, p.src, fmt.Sprintf("xl unpause %d", p.id)); err != nil {
				return err
			}
		case time.Since(began) > endTimeout:
			return errors.New("it is " + s.describe())
		default:
			time.Sleep(resumePoll)
		}
	}
}

// renew gives a paravirtual guest that goes on where it was its devices anew, as the package
// comment explains. One that cannot be told before is not, and may lose what their drivers had
// to send.
func (p *Plan) renew(ctx context.Context) error {
	for n, d := range p.domain.PCI {
		if p.opts.Unplug != nil && p.SourceCtl != "" {
			telling, cancel := context.WithTimeout(ctx, commandTimeout)
			_ = p.opts.Unplug(telling, p.domain.guestAddress(n), 2*commandTimeout)
			cancel()
		}
		detachLine := fmt.Sprintf("xl pci-detach %s %v", quote(p.opts.Domain), d)
		for _, line := range []string{detachLine, attachLine(p.opts.Domain, d)} {
			if err := do(ctx, p.src, line); err != nil {
				return fmt.Errorf("the guest was not given its device %v anew, without which that may be dead: %w", d, err)
			}
		}
	}
	return nil
}

// failed adds to an error what both sides are now.
func (p *Plan) failed(ctx context.Context, err error) error {
	ctx = context.WithoutCancel(ctx)
	e := &Error{Err: err}
	var here, there state
	here, e.Source = look(ctx, p.src, p.opts.Domain)
	there, e.Destination = look(ctx, p.dst, p.there.Create.Name)
	unpause := func(h Host, name string) string { return fmt.Sprintf("on %v: xl unpause %s", h, quote(name)) }
	switch {
	case here.flags != "" && here.runs(), there.flags != "" && there.runs():
		var advice []string
		if errors.Is(err, ErrNoDevices) {
			for _, d := range p.there.PCI {
				advice = append(advice, fmt.Sprintf("to give it %v, on %v: %s", d, p.dst, attachLine(p.there.Create.Name, d)))
			}
		}
		if errors.Is(err, ErrSourceLeft) {
			advice = append(advice, fmt.Sprintf("to remove the copy, on %v: xl destroy %d", p.src, p.id))
		}
		e.Advice = strings.Join(advice, "\n")
	case errors.Is(err, migrate.ErrUnknownOutcome):
		e.Advice = "if it does not run on the destination, destroy it there, and then " + unpause(p.src, p.opts.Domain)
	default:
		e.Advice = "to get it back, " + unpause(p.src, p.opts.Domain)
	}
	return e
}

// look is what a host says of a domain, for a person.
func look(ctx context.Context, h Host, name string) (state, string) {
	domains, err := list(ctx, h)
	if err != nil {
		return state{}, "in a state that is not known"
	}
	s, ok := domains[name]
	if !ok {
		return s, "not there"
	}
	return s, s.describe()
}
