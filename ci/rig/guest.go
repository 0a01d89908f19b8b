// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/umbra-vm/umbra/ci/testbed"
	"github.com/umbra-vm/umbra/image"
)

// witnessPackage is the appliance program of the guest.
const witnessPackage = "github.com/umbra-vm/umbra/ci/witness/cmd/witness"

// GuestOptions shape the image of a guest under test.
type GuestOptions struct {
	Dir     string   // where the image and what goes into it are built
	Witness []string // further arguments of the witness
	// NoWitness leaves it out; the guest then idles.
	NoWitness bool
	Drivers   []string // modules; every NIC of QEMU if empty
	// Extra is TOML added to the image's description.
	Extra string
	image.Options
}

// Build builds the image of a guest that runs the witness.
func Build(ctx context.Context, opts GuestOptions) (*image.Bundle, error) {
	src, err := image.FindSource(ctx, opts.Source)
	if err != nil {
		return nil, err
	}
	opts.Source = src
	// The description's paths are relative to its own directory.
	if opts.Dir, err = filepath.Abs(opts.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[image]\nname = \"guest\"\nhostname = \"guest\"\n[drivers]\n")
	if len(opts.Drivers) > 0 {
		fmt.Fprintf(&b, "modules = [%s]\n", quoted(opts.Drivers))
	} else {
		fmt.Fprintf(&b, "classes = [\"qemu-net\"]\n")
	}
	fmt.Fprintf(&b, "[[role]]\nname = %q\nclass = \"net\"\n", Role)
	if !opts.NoWitness {
		bin := filepath.Join(opts.Dir, "witness")
		if err := image.BuildGo(ctx, src, witnessPackage, bin); err != nil {
			return nil, err
		}
		args := append([]string{"/bin/witness", "-peer", testbed.WitnessAddr}, opts.Witness...)
		fmt.Fprintf(&b, "[[service]]\nname = \"witness\"\nexec = [%s]\nfiles = [%q]\nneeds = [%q]\nrestart = \"never\"\n",
			quoted(args), bin+":/bin/witness", Role)
	}
	b.WriteString(opts.Extra)
	cfg, err := image.Parse(filepath.Join(opts.Dir, "guest.toml"), []byte(b.String()))
	if err != nil {
		return nil, err
	}
	return image.Build(ctx, cfg, filepath.Join(opts.Dir, "image"), opts.Options)
}

func quoted(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(out, ", ")
}
