// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/umbra-vm/umbra/shadow/ctl"
	"github.com/umbra-vm/umbra/shadow/oplog"
)

var (
	// ErrCorrupt is matched by a CorruptError.
	ErrCorrupt = errors.New("corrupt journal")
	// ErrTooLarge is matched by the error of a record over 1 MiB.
	ErrTooLarge = errors.New("record too large")
	// ErrClosed is matched by the error of a call on a closed journal.
	ErrClosed = errors.New("journal closed")
)

// A CorruptError says where a journal is damaged. It matches ErrCorrupt.
type CorruptError struct {
	File   string
	Offset int64 // in bytes
	Err    error // what is wrong there
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s at offset %d: %v", ErrCorrupt, e.File, e.Offset, e.Err)
}

// Unwrap returns ErrCorrupt and Err.
func (e *CorruptError) Unwrap() []error { return []error{ErrCorrupt, e.Err} }

// compactMin is the file size in bytes below which compaction is not worth it.
const compactMin = 16 << 10

// A Journal records what happens to one role. Its methods may be called
// concurrently.
type Journal struct {
	fs   FS
	path string

	mu        sync.Mutex
	file      File // nil when closed
	state     State
	seq       uint32 // of the last frame in the file
	size      int64  // of the file
	compactAt int64  // the size at which to look whether compaction pays
	min       int64  // lower bound of compactAt
	suspect   bool   // a write failed: what the file ends with is not known
}

// An Option changes how Open works.
type Option func(*Journal)

// WithFS puts another file system in the place of the operating system's.
func WithFS(fsys FS) Option { return func(j *Journal) { j.fs = fsys } }

// WithCompaction sets the file size in bytes from which the journal is
// compacted whenever more than half of it is out of date.
func WithCompaction(size int64) Option { return func(j *Journal) { j.min = size } }

// Path returns the file of a role's journal in dir.
func Path(dir, role string) string { return filepath.Join(dir, role+".journal") }

// Open opens the journal of role in dir, makes both if they are not there, cuts
// off a torn tail and returns what the journal says. A damaged file is refused
// with a *CorruptError and stays as it is; SetAside makes way for a new one.
func Open(dir, role string, opts ...Option) (*Journal, State, error) {
	if role == "" || role[0] == '.' || strings.ContainsAny(role, "/\x00") {
		return nil, State{}, fmt.Errorf("opening journal: role %q is no file name", role)
	}
	j := &Journal{fs: osFS{}, path: Path(dir, role), min: compactMin, state: newState()}
	for _, o := range opts {
		o(j)
	}
	if err := j.open(dir); err != nil {
		if j.file != nil {
			j.file.Close()
		}
		return nil, State{}, fmt.Errorf("opening journal of %s: %w", role, err)
	}
	return j, j.state.clone(), nil
}

func (j *Journal) open(dir string) error {
	if err := j.fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Left by a predecessor that was killed while compacting.
	if err := j.fs.Remove(j.tmp()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := j.fs.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	j.file = f
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	good, err := scan(b, func(f frame) error {
		j.seq = f.seq
		return j.state.apply(f)
	})
	if err != nil {
		return &CorruptError{File: j.path, Offset: int64(good), Err: err}
	}
	j.state.Torn = len(b) - good
	j.size = int64(good)
	j.compactAt = j.min
	if good == 0 || j.state.Torn > 0 {
		// A new file, or one whose end must go before anything is appended.
		return j.rewrite()
	}
	return nil
}

// SetAside renames a journal that Open refused, so that a new one can be
// opened, and returns the name it has now. An earlier one set aside is replaced.
func SetAside(dir, role string) (string, error) {
	path := Path(dir, role)
	aside := path + ".corrupt"
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("setting journal of %s aside: %w", role, err)
	}
	return aside, nil
}

// State returns what the journal says now.
func (j *Journal) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.clone()
}

// Op records an operation of the log, without a mark.
func (j *Journal) Op(op oplog.Op) error {
	return j.record(kindOp, opRecord{Op: op})
}

// Defer records that op, an operation of the log, is deferred; an empty reason
// takes the mark away.
func (j *Journal) Defer(op oplog.Op, reason string) error {
	return j.record(kindOp, opRecord{op, reason})
}

// Fact records v, as encoding/json encodes it, under a name; it replaces what
// was recorded under it before. A nil v forgets the name.
func (j *Journal) Fact(name string, v any) error {
	r := factRecord{Name: name}
	if v != nil {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("%s: fact %s: %w", j.path, name, err)
		}
		r.Data = raw
	}
	return j.record(kindFact, r)
}

// Progress records how far a recovery got: its timeline so far.
func (j *Journal) Progress(t ctl.Timeline) error { return j.record(kindProgress, t) }

// Done records the timeline of a recovery that ended. Done again for the same
// recovery replaces it.
func (j *Journal) Done(t ctl.Timeline) error { return j.record(kindDone, t) }

// Close closes the file. What was recorded is in it already.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// record makes a frame of v and takes it into the file, then into the state.
// When it fails the state is as before; a successor may find the record or not.
func (j *Journal) record(kind byte, v any) error {
	payload, err := encodePayload(v, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return fmt.Errorf("%s: %w", j.path, ErrClosed)
	}
	if j.suspect {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	f := frame{kind, j.seq + 1, payload}
	if err := j.append(f); err != nil {
		return err
	}
	if err := j.state.apply(f); err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	if j.size >= j.compactAt {
		j.compact()
	}
	return nil
}

func (j *Journal) append(f frame) error {
	b := appendFrame(nil, f)
	_, err := j.file.Write(b)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// After a failed write, and more so after a failed sync, nobody knows
		// what the file ends with. Cutting it is an attempt; the next record
		// goes into a new file.
		j.suspect = true
		j.file.Truncate(j.size)
		return fmt.Errorf("writing to %s: %w", j.path, err)
	}
	j.seq = f.seq
	j.size += int64(len(b))
	return nil
}

// compact rewrites the file if more than half of it is out of date. It reports
// no error: what was recorded is safe in the file that there is, and a failure
// that matters makes the file suspect, so that the next record meets it.
func (j *Journal) compact() {
	b, seq, err := j.state.encode()
	if live := int64(len(b)); err == nil && j.size-live > live && j.replace(b, seq) == nil {
		return
	}
	j.compactAt = 2 * j.size
}

// rewrite puts a new file in the place of the present one, whose end is not
// good.
func (j *Journal) rewrite() error {
	b, seq, err := j.state.encode()
	if err != nil {
		return fmt.Errorf("rewriting %s: %w", j.path, err)
	}
	return j.replace(b, seq)
}

func (j *Journal) tmp() string { return j.path + ".tmp" }

// replace makes b, which ends in the frame seq, the content of the journal. Up
// to the rename a failure leaves the old file untouched and in use. A rename or
// directory sync that fails leaves open which of the two a successor will find;
// both say the same, but the one in use is then suspect.
func (j *Journal) replace(b []byte, seq uint32) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replacing %s: %w", j.path, err)
		}
	}()
	f, err := j.fs.OpenFile(j.tmp(), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		return err
	}
	j.suspect = true
	if err := j.fs.Rename(j.tmp(), j.path); err != nil {
		f.Close()
		return err
	}
	j.file.Close()
	j.file, j.seq, j.size = f, seq, int64(len(b))
	j.compactAt = max(j.min, 2*j.size+1)
	if err := j.fs.SyncDir(filepath.Dir(j.path)); err != nil {
		return err
	}
	j.suspect = false
	return nil
}
