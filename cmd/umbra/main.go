// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Umbra builds images whose drivers may be exchanged under running programs,
// runs them, and moves them between machines with unlike hardware.
//
// Each verb is a file of this directory with a constructor; the work is done
// by the packages image and migrate.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/image"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return execute(ctx, newRoot(), os.Args[1:], os.Stderr)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "umbra",
		Short: "images whose drivers may be exchanged under running programs",
		Long: `umbra builds bootable images, runs them, and moves them between machines with
unlike hardware while their programs go on.

Exit codes:
` + exitHelp(),
		Version:       image.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		newNew(),
		newBuild(),
		newRun(),
		newCheck(),
		newMigrate(),
		newPCIFront(),
		newStatus(),
		newServices(),
		newLogs(),
		newTimeline(),
		newLog(),
		newDemo(),
	)
	return root
}

// execute runs the command line and returns the exit code. Whatever cobra
// itself refuses is a mistake of usage; only what a verb returns is more.
func execute(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	for _, verb := range root.Commands() {
		if work := verb.RunE; work != nil {
			verb.RunE = func(cmd *cobra.Command, args []string) error {
				if err := work(cmd, args); err != nil {
					return &workError{err}
				}
				return nil
			}
		}
	}
	root.SetArgs(args)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var work *workError
	if !errors.As(err, &work) {
		err = &codeError{exitUsage, fmt.Errorf("%w\nTry '%s --help'", err, cmd.CommandPath())}
	}
	report(stderr, err)
	return exitCode(err)
}

// workError is what a verb's own code returned.
type workError struct{ error }

func (e *workError) Unwrap() error { return e.error }

// report prints an error. Faults of a description start with file and line, as
// compilers write them, so that editors find the place.
func report(w io.Writer, err error) {
	text := strings.TrimSpace(err.Error())
	if !errors.Is(err, image.ErrConfig) {
		text = "umbra: " + text
	}
	fmt.Fprintln(w, text)
}
