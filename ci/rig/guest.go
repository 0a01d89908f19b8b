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

// The appliance programs of the guest.
const (
	witnessPackage = "github.com/umbra-vm/umbra/ci/witness/cmd/witness"
	streamsPackage = "github.com/umbra-vm/umbra/ci/streams/cmd/streams"
)

// GuestOptions shape the image of a guest under test.
type GuestOptions struct {
	Dir     string   // where the image and what goes into it are built
	Witness []string // further arguments of the witness
	Before  []string // services that the witness waits for
	// NoWitness leaves it out; the guest then idles.
	NoWitness bool
	Streams   bool     // run package streams, see Pair
	Drivers   []string // modules; every NIC of QEMU if empty
	Classes   []string // of drivers, beside modules
	// Role is TOML added to that of the first role, Extra to the image's description.
	Role  string
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
		fmt.Fprintf(&b, "modules = [%s]\nclasses = [%s]\n", quoted(opts.Drivers), quoted(opts.Classes))
	} else {
		fmt.Fprintf(&b, "classes = [\"qemu-net\"]\n")
	}
	fmt.Fprintf(&b, "[[role]]\nname = %q\nclass = \"net\"\n%s", Role, opts.Role)
	if !opts.NoWitness {
		args := append([]string{"-peer", testbed.WitnessAddr}, opts.Witness...)
		if err := service(ctx, &b, opts, "witness", witnessPackage, opts.Before, args...); err != nil {
			return nil, err
		}
	}
	if opts.Streams {
		if err := service(ctx, &b, opts, "streams", streamsPackage, nil); err != nil {
			return nil, err
		}
	}
	b.WriteString(opts.Extra)
	cfg, err := image.Parse(filepath.Join(opts.Dir, "guest.toml"), []byte(b.String()))
	if err != nil {
		return nil, err
	}
	return image.Build(ctx, cfg, filepath.Join(opts.Dir, "image"), opts.Options)
}

// service builds a program and describes it to the image. It waits for the role, and for
// the services in before.
func service(ctx context.Context, b *strings.Builder, opts GuestOptions, name, pkg string, before []string, args ...string) error {
	bin := filepath.Join(opts.Dir, name)
	if err := image.BuildGo(ctx, opts.Source, pkg, bin); err != nil {
		return err
	}
	fmt.Fprintf(b, "[[service]]\nname = %q\nexec = [%s]\nfiles = [%q]\nneeds = [%s]\nrestart = \"never\"\n",
		name, quoted(append([]string{"/bin/" + name}, args...)), bin+":/bin/"+name, quoted(append([]string{Role}, before...)))
	return nil
}

func quoted(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(out, ", ")
}
