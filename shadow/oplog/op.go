// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package oplog

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of an operation in bytes. The longest value known is a textual RSS
// indirection table of some thousand entries.
const (
	MaxKey   = 255
	MaxValue = 64 << 10
)

// ErrBadOp is matched by the error of an operation that breaks the rules of Op.
var ErrBadOp = errors.New("bad operation")

// An Op is one operation.
//
// A key has the form class.name, with further dots as the class likes; it is
// made of ASCII letters, digits and any of ._-:/@, and at most MaxKey long. What
// the operation does is told by the key's last character, so that key, "=" and
// value read as people write it:
//
//	net.mtu=9000    sets the key to the value
//	net.vlan+=100   adds a member to the set; the Key is "net.vlan+"
//	net.vlan-=100   removes a member; the Key is "net.vlan-"
//	net.mtu-=       forgets the key with all its members
//
// A value is any string of at most MaxValue bytes; a member of a set is not
// empty. Without its operator a key is either a value or a set: the newest
// operation decides.
type Op struct {
	Key   string
	Value string
}

// Set returns the operation key=value.
func Set(key, value string) Op { return Op{key, value} }

// Add returns the operation key+=member.
func Add(key, member string) Op { return Op{key + "+", member} }

// Remove returns the operation key-=member.
func Remove(key, member string) Op { return Op{key + "-", member} }

// Forget returns the operation key-=, after which the log knows nothing of the
// key.
func Forget(key string) Op { return Op{key + "-", ""} }

// Base returns the key without its operator.
func (o Op) Base() string {
	base, _ := o.split()
	return base
}

// Class returns the part of the key before the first dot.
func (o Op) Class() string {
	class, _, _ := strings.Cut(o.Key, ".")
	return class
}

// Name returns the part of the key after the class, without operator:
// "feature.rx-all" of "net.feature.rx-all=on".
func (o Op) Name() string {
	_, name, _ := strings.Cut(o.Base(), ".")
	return name
}

// IsMember reports whether the operation adds a member to a set.
func (o Op) IsMember() bool { return strings.HasSuffix(o.Key, "+") }

// IsRemoval reports whether the operation takes something out of a log.
func (o Op) IsRemoval() bool { return strings.HasSuffix(o.Key, "-") }

func (o Op) split() (base string, operator byte) {
	if n := len(o.Key); n > 0 && (o.Key[n-1] == '+' || o.Key[n-1] == '-') {
		return o.Key[:n-1], o.Key[n-1]
	}
	return o.Key, '='
}

// Validate checks the rules above. Its error matches ErrBadOp.
func (o Op) Validate() error {
	base, operator := o.split()
	class, name, dot := strings.Cut(base, ".")
	switch {
	case len(o.Key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes, at most %d", ErrBadOp, len(o.Key), MaxKey)
	case !dot || class == "" || name == "":
		return fmt.Errorf("%w: key %q is not class.name", ErrBadOp, o.Key)
	case len(o.Value) > MaxValue:
		return fmt.Errorf("%w: %s: value of %d bytes, at most %d", ErrBadOp, o.Key, len(o.Value), MaxValue)
	case operator == '+' && o.Value == "":
		return fmt.Errorf("%w: %s: empty member", ErrBadOp, o.Key)
	}
	for i := range len(base) {
		if !keyByte(base[i]) {
			return fmt.Errorf("%w: key %q: character %q", ErrBadOp, o.Key, base[i])
		}
	}
	if last := base[len(base)-1]; last == '-' {
		return fmt.Errorf("%w: key %q ends in two operators", ErrBadOp, o.Key)
	}
	return nil
}

func keyByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("._-:/@,", c) >= 0
}

// String returns the operation as one line without its newline, in the form
// that Parse reads.
func (o Op) String() string { return o.Key + "=" + quote(o.Value) }

// Parse reads an operation in the form of String.
func Parse(s string) (Op, error) {
	op, rest, err := parsePrefix(s)
	if err == nil && rest != "" {
		return Op{}, fmt.Errorf("%w: %s: %.80q after the value", ErrBadOp, op.Key, rest)
	}
	return op, err
}

// parsePrefix reads the operation that s starts with, and returns what follows
// its value.
func parsePrefix(s string) (op Op, rest string, err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return Op{}, "", fmt.Errorf("%w: %.80q has no \"=\"", ErrBadOp, s)
	}
	value, rest, err = unquotePrefix(value)
	if err != nil {
		return Op{}, "", fmt.Errorf("%w: %.80s: %w", ErrBadOp, key, err)
	}
	op = Op{key, value}
	if err := op.Validate(); err != nil {
		return Op{}, "", err
	}
	return op, rest, nil
}

// MarshalText implements encoding.TextMarshaler with the form of String.
func (o Op) MarshalText() ([]byte, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return []byte(o.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Op) UnmarshalText(text []byte) (err error) {
	*o, err = Parse(string(text))
	return err
}

// quote returns s bare when all its bytes are printable ASCII other than
// space, quote and backslash, and otherwise as a Go string in ASCII, which can
// carry any bytes.
func quote(s string) string {
	if bare(s) {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// unquotePrefix undoes quote on the start of s, and refuses what quote would
// have written otherwise: a value has one written form.
func unquotePrefix(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexByte(s, ' ')
		if end < 0 {
			end = len(s)
		}
		if !bare(s[:end]) {
			return "", "", fmt.Errorf("value %.80q must be quoted", s[:end])
		}
		return s[:end], s[end:], nil
	}
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", fmt.Errorf("value %.80q: quotes do not match", s)
	}
	value, err = strconv.Unquote(quoted)
	if err != nil || quote(value) != quoted {
		return "", "", fmt.Errorf("value %.80q is not quoted as it must be", quoted)
	}
	return value, s[len(quoted):], nil
}

func bare(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
