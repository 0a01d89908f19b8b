// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/image"
)

func newBuild() *cobra.Command {
	var (
		opts  image.Options
		out   string
		quiet bool
		show  bool
	)
	cmd := &cobra.Command{
		Use:   "build FILE.toml",
		Short: "build an image from its description",
		Long: `Build reads the description of an image and writes what boots: vmlinuz and
initramfs, with run-qemu.sh, NAME.xl.cfg (for PV and PVH: NAME.pv.xl.cfg and
NAME.pvh.xl.cfg), NAME.libvirt.xml and manifest.json beside them, and what image.outputs names: uki, disk, qcow2, iso.
The same description, sources and kernel give the same bytes.

The classes of drivers are
` + classHelp() + `
Init is compiled from the source of umbra: that of --source, else the module
that the working directory is in or requires, else what this program was
compiled from, or lies in as out/umbra.`,
		Example: "  umbra build --example > app.toml\n  umbra build app.toml\n  umbra build -o /srv/images/app app.toml",
		Args: func(cmd *cobra.Command, args []string) error {
			if show {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if show {
				_, err := io.WriteString(cmd.OutOrStdout(), image.Example)
				return err
			}
			c, err := image.Load(args[0])
			if err != nil {
				return err
			}
			if out == "" {
				out = filepath.Join("out", c.Image.Name)
			}
			start := time.Now()
			if !quiet {
				opts.Progress = func(step string) { fmt.Fprintf(cmd.ErrOrStderr(), "%6.1f s  %s\n", time.Since(start).Seconds(), step) }
			}
			b, err := image.Build(cmd.Context(), c, out, opts)
			if err != nil {
				return err
			}
			if quiet {
				return nil
			}
			return summary(cmd.OutOrStdout(), b)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "directory to write to (default out/NAME)")
	f.StringVar(&opts.CacheDir, "cache", "", "directory that keeps kernels and tools between builds (default umbra in the user's cache directory)")
	f.StringVar(&opts.Source, "source", "", "directory of umbra's source")
	f.StringVar(&opts.Init, "init", "", "Go package that becomes the guest's init (default umbra's own)")
	f.BoolVar(&show, "example", false, "print a description that shows every key, and build nothing")
	f.BoolVarP(&quiet, "quiet", "q", false, "say nothing unless it fails")
	return cmd
}

func classHelp() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, c := range image.Classes() {
		fmt.Fprintf(w, "  %s\t%s\n", c.Name, c.Doc)
		if len(c.Modules) > 1 {
			fmt.Fprintf(w, "  \t(%s)\n", strings.Join(c.Modules, " "))
		}
	}
	w.Flush()
	return b.String()
}

func summary(out io.Writer, b *image.Bundle) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	names := make([]string, 0, len(b.Files))
	for name := range b.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(w, "%.1f MiB\t  %s\n", float64(b.Files[name].Size)/(1<<20), filepath.Join(b.Dir, name))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "Linux %s, %d modules, of which %d are prefetched. Run it: umbra run %s\n",
		b.Kernel.Release, len(b.Modules), len(b.Prefetch), b.Dir)
	return err
}
