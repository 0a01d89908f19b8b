// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/umbra-vm/umbra/image"
	"github.com/umbra-vm/umbra/image/examples"
)

func newNew() *cobra.Command {
	return &cobra.Command{
		Use:   "new DIR",
		Short: "make a directory with an appliance to start from",
		Long: `New makes the directory DIR with the description of an appliance, umbra.toml, and
what it describes: a Go program that answers HTTP requests. It builds and runs as
it is. Something that exists is never changed.`,
		Example: "  umbra new hello\n  umbra build hello/umbra.toml\n  umbra run out/hello",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := filepath.Clean(args[0])
			description := filepath.Join(dir, image.DefaultFile)
			c, err := image.Parse(description, nil) // the image has the directory's name
			if err != nil {
				return err
			}
			written, err := examples.New(cmd.Context(), dir)
			if errors.Is(err, examples.ErrExists) {
				return refused(err)
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, name := range written {
				fmt.Fprintln(out, "wrote", name)
			}
			_, err = fmt.Fprintf(out, `Build it, and run it with its port 80 as this machine's 8080:
  %[1]s build %[2]s
  %[1]s run %[3]s --netdev user,hostfwd=tcp:127.0.0.1:8080-:80
`, os.Args[0], description, filepath.Join("out", c.Image.Name))
			return err
		},
	}
}
