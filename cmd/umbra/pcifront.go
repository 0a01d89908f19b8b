// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/migrate/xen/pcifront"
)

func newPCIFront() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pcifront",
		Short: "in a Xen host's dom0: stand in for what a paravirtual guest's devices were on",
		Long: `Pcifront is for paravirtual guests of Xen that are moved with a device in use. It runs in
the dom0 of both hosts; umbra migrate --xen runs it by itself.`,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "find DOMAIN",
		Short: "on the source: print the page by which the guest asks for its devices",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return findPage(args[0], cmd.OutOrStdout())
		},
	}, &cobra.Command{
		Use:   "answer DOMAIN PAGE",
		Short: "on the destination: answer the guest until it has given its old devices up",
		Long: `Answer answers for devices that have stayed on the source, as if nothing were plugged in,
and has the guest give them up. PAGE is what find has printed on the source. It may be
called before the domain is there. The domain must have no device: xl pci-attach gives it
one when answer has ended.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return answerPage(cmd.Context(), args[0], args[1], cmd.OutOrStdout())
		},
	})
	return cmd
}

func findPage(name string, stdout io.Writer) error {
	d, stop, err := pcifront.Open()
	if err != nil {
		return refused(err)
	}
	defer stop()
	p, err := d.Find(name)
	if err != nil {
		return refused(err)
	}
	_, err = fmt.Fprintln(stdout, p)
	return err
}

func answerPage(ctx context.Context, name, text string, stdout io.Writer) error {
	page, err := pcifront.Parse(text)
	if err != nil {
		return &codeError{exitUsage, err}
	}
	d, stop, err := pcifront.Open()
	if err != nil {
		return refused(err)
	}
	defer stop()
	answered, err := d.Answer(ctx, name, page, func() { fmt.Fprintln(stdout, pcifront.Ready) })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, "answered", answered)
	return err
}
