// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrInvalid is matched by every error about the content of a configuration.
var ErrInvalid = errors.New("invalid configuration")

// maxSize bounds what Load reads. A configuration has a few kilobytes; a file
// of a megabyte is not one.
const maxSize = 1 << 20

// Load reads one JSON configuration, fills in defaults and validates it. Keys
// it does not know are refused by name: a misspelt key must not silently mean
// the default. Errors about the content match [ErrInvalid].
func Load(r io.Reader) (*Config, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrInvalid, maxSize)
	}
	return LoadBytes(text)
}

// LoadBytes is Load on a text.
func LoadBytes(text []byte) (*Config, error) {
	c := new(Config)
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("%w: line %d: %w", ErrInvalid, line(text, errorOffset(err, dec)), err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: line %d: something follows the configuration", ErrInvalid, line(text, dec.InputOffset()))
	}
	c.SetDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// Encode writes the configuration as Load reads it. The same configuration
// always gives the same bytes.
func (c *Config) Encode(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	return nil
}

// errorOffset finds where in the text a decoding error lies. encoding/json
// tells it for syntax and type errors only; for others, an unknown key among
// them, the decoder has read up to the value it refuses.
func errorOffset(err error, dec *json.Decoder) int64 {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return syntax.Offset
	case errors.As(err, &typ):
		return typ.Offset
	}
	return dec.InputOffset()
}

func line(text []byte, offset int64) int {
	offset = min(max(offset, 0), int64(len(text)))
	return 1 + bytes.Count(text[:offset], []byte("\n"))
}
