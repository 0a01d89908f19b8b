// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/gobusybox/src/pkg/golang"
	"github.com/u-root/mkuimage/uimage/builder"
	uinit "github.com/u-root/mkuimage/uimage/initramfs"
	"github.com/u-root/uio/llog"
	"github.com/umbra-vm/umbra/image/initramfs"
	"github.com/umbra-vm/umbra/image/sbom"
)

// debugTools are the u-root commands of a debug image, a shell first.
var debugTools = []string{
	"gosh", "cat", "cp", "df", "dmesg", "echo", "find", "free", "grep", "head", "hexdump", "hostname", "id", "insmod",
	"ip", "kill", "ln", "ls", "lsmod", "mkdir", "mount", "mv", "netstat", "pci", "ping", "ps", "pwd", "rm", "rmmod",
	"seq", "sleep", "sort", "strace", "sync", "tail", "tee", "tr", "umount", "uname", "uptime", "wc", "which",
}

// debugTags build the shell without line editor, which would bring a module of
// its own.
var debugTags = []string{"goshsmall"}

const uroot = "github.com/u-root/u-root"

// addTools adds the tools of a debug image: one busybox-like program and a link
// per command, /bin/sh among them. What is in the archive already stays.
func addTools(a *initramfs.Archive, bb string) error {
	if err := a.AddFile(bb, "/bin/bb"); err != nil {
		return err
	}
	link := func(name, to string) error {
		if a.Contains(name) {
			return nil
		}
		return a.AddSymlink(name, to)
	}
	for _, tool := range debugTools {
		if err := link("/bin/"+tool, "bb"); err != nil {
			return err
		}
	}
	return link("/bin/sh", "gosh")
}

// listTools returns the words of go list, with these options, about the tools.
func listTools(ctx context.Context, opts Options, options ...string) ([]string, error) {
	args := append([]string{"list", "-tags=" + strings.Join(debugTags, ",")}, options...)
	for _, tool := range debugTools {
		args = append(args, uroot+"/cmds/core/"+tool)
	}
	out, err := goCommand(ctx, opts.Source, args...)
	return strings.Fields(string(out)), err
}

// toolModules returns the modules that the tools are compiled of: they are made one program
// by being written anew, which then does not say.
func toolModules(ctx context.Context, opts Options) (all []sbom.Component, err error) {
	words, err := listTools(ctx, opts, "-deps", "-f", "{{with .Module}}{{.Path}}@{{.Version}}{{end}}")
	if err != nil {
		return nil, fmt.Errorf("modules of the debug tools: %w", err)
	}
	slices.Sort(words)
	for _, word := range slices.Compact(words) {
		name, version, _ := strings.Cut(word, "@")
		all = append(all, sbom.Component{Name: name, Version: version, PURL: sbom.GoPURL(name, version)})
	}
	return all, nil
}

// busybox compiles the tools, once for a version of Go and of u-root, and
// returns the path of the program.
func busybox(ctx context.Context, opts Options) (program string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("debug tools: %w", err)
		}
	}()
	key := sha256.New()
	for _, args := range [][]string{{"version"}, {"list", "-m", uroot}} {
		out, err := goCommand(ctx, opts.Source, args...)
		if err != nil {
			return "", err
		}
		key.Write(out)
	}
	fmt.Fprintln(key, debugTools, debugTags)
	dir := filepath.Join(opts.CacheDir, "tools")
	program = filepath.Join(dir, "bb-"+hex.EncodeToString(key.Sum(nil)))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	opts.Progress("compiling debug tools")
	dirs, err := listTools(ctx, opts, "-f", "{{.Dir}}")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	env := golang.Default(golang.DisableCGO(), golang.WithGOOS("linux"), golang.WithGOARCH("amd64"), golang.WithWorkingDir(opts.Source),
		golang.WithBuildTag(debugTags...))
	err = builder.Busybox.Build(new(llog.Logger), uinit.NewFiles(), builder.Opts{
		Env: env,
		// The builder's own flags rebuild the standard library each time.
		BuildOpts: &golang.BuildOpts{EnableInlining: true, ExtraArgs: []string{"-a=false", "-buildvcs=false"}},
		Packages:  dirs,
		TempDir:   tmp,
		BinaryDir: "bin",
	})
	if err != nil {
		return "", err
	}
	return program, errors.Join(os.Rename(filepath.Join(tmp, "bb"), program))
}
