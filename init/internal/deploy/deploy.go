// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package deploy finds what a guest is told at deploy time, by its hypervisor or its
// boot loader, and lays it over the configuration of its image.
//
// It reads bytes from outside and loads drivers to get at them, so it is not for
// process 1: a process of its own gathers once, before anything else is started, and
// leaves a [Result] for the others. It must never know what a key means; that is the
// business of package config.
package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/overlay"
	"github.com/umbra-vm/umbra/init/internal/onestep"
)

// Result is what came of gathering.
type Result struct {
	// Config is what the guest is to be: the image's own with all documents over it
	// or, if there are faults, without any.
	Config *config.Config `json:"config"`

	// Documents names what was found, the least important first.
	Documents []string `json:"documents,omitempty"`

	// Faults are why documents were refused: file or source, line and key. All are
	// refused if one is.
	Faults []string `json:"faults,omitempty"`
}

// A Source is a place where there may be documents. It is no error that there are none.
type Source func(ctx context.Context, log *slog.Logger) ([]*overlay.Document, error)

// Gather reads the sources, of which each is more important than the one before, and
// lays what they have over the image's configuration, and the words of the kernel
// command line over that. Its result can be used whatever is wrong.
func Gather(ctx context.Context, log *slog.Logger, image []byte, cmdline string, sources ...Source) Result {
	var r Result
	own, err := overlay.Apply(image)
	if err != nil {
		own = new(config.Config)
		own.SetDefaults()
	}
	r.Config = own
	faults := []error{err, own.Override(cmdline)}

	var docs []*overlay.Document
	for _, read := range sources {
		found, err := read(ctx, log)
		faults = append(faults, err)
		docs = append(docs, found...)
	}
	for _, d := range docs {
		r.Documents = append(r.Documents, d.Source)
	}
	if errors.Join(faults...) == nil && len(docs) > 0 {
		merged, err := overlay.Apply(image, docs...)
		if err == nil {
			err = merged.Override(cmdline)
			r.Config = merged
		}
		faults = append(faults, err)
	}
	for _, err := range faults {
		if err != nil {
			r.Faults = append(r.Faults, strings.Split(err.Error(), "\n")...)
		}
	}
	return r
}

// Save leaves the result in a file, in one step. It may hold secrets of services.
func (r Result) Save(path string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	if err := onestep.Replace(path, text, 0o600); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return nil
}

// Load reads the result of whoever gathered. Where there is none, it is the image's own
// configuration with the words of the kernel command line, and the fault that there is
// none.
func Load(path string, image []byte, cmdline string) Result {
	text, err := os.ReadFile(path)
	var r Result
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err == nil && r.Config == nil {
		err = errors.New("no configuration")
	}
	if err == nil {
		return r
	}
	r = Gather(context.Background(), slog.New(slog.DiscardHandler), image, cmdline)
	r.Faults = append(r.Faults, fmt.Sprintf("what is configured at deploy time is not known: %v", err))
	return r
}

// parse reads documents that were found, in their order.
func parse(found []found) ([]*overlay.Document, error) {
	var docs []*overlay.Document
	var errs []error
	for _, f := range found {
		d, err := overlay.Parse(f.source, f.text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		docs = append(docs, d)
	}
	return docs, errors.Join(errs...)
}

// found is the text of a document, and where it was.
type found struct {
	source string
	text   []byte
}
