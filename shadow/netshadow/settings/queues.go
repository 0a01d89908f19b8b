// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// queueFiles are the files of sysfs with a setting of each queue: the kernel's
// Documentation/networking/scaling.rst.
var queueFiles = []struct {
	prefix, direction, file string
}{
	{rpsCPUsPrefix, "rx", "rps_cpus"},
	{rpsFlowsPrefix, "rx", "rps_flow_cnt"},
	{xpsCPUsPrefix, "tx", "xps_cpus"},
	{xpsQueuesPrefix, "tx", "xps_rxqs"},
}

// interfaceFiles are those with a setting of the interface.
var interfaceFiles = map[string]string{
	"net.napi.threaded":          "threaded",
	"net.napi.gro-flush-timeout": "gro_flush_timeout",
	"net.napi.defer-hard-irqs":   "napi_defer_hard_irqs",
}

// queueName is the kernel's name of a queue.
var queueName = regexp.MustCompile(`^[rt]x-[0-9]+$`)

// getQueues reads the settings of an interface's queues from its directory in
// sysfs. What cannot be read, as xps_cpus of an interface with one queue, is no
// setting of it.
func getQueues(dir string) (Values, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, unix.ENODEV
	}
	values := make(Values)
	for key, file := range interfaceFiles {
		if text, ok := readSetting(filepath.Join(dir, file)); ok {
			if key == "net.napi.threaded" {
				text = onOff(text == "1")
			}
			values[key] = text
		}
	}
	queues, err := os.ReadDir(filepath.Join(dir, "queues"))
	if err != nil {
		return nil, unix.ENODEV
	}
	for _, q := range queues {
		for _, f := range queueFiles {
			if !strings.HasPrefix(q.Name(), f.direction+"-") {
				continue
			}
			if text, ok := readSetting(filepath.Join(dir, "queues", q.Name(), f.file)); ok {
				values[f.prefix+q.Name()] = text
			}
		}
	}
	return values, nil
}

func readSetting(path string) (string, bool) {
	b, err := os.ReadFile(path)
	text := strings.TrimSpace(string(b))
	return text, err == nil && text != ""
}

// setQueues sets settings of an interface's queues, one after the other.
func setQueues(dir string, ops []oplog.Op) error {
	for _, op := range ops {
		path, err := settingFile(op.Key)
		if err != nil {
			return refusal{err}
		}
		text := op.Value
		if op.Key == "net.napi.threaded" {
			text = map[string]string{"on": "1", "off": "0"}[text]
		}
		if err := writeSetting(filepath.Join(dir, path), text); err != nil {
			return err
		}
	}
	return nil
}

// settingFile returns the file of a key, relative to the interface's directory.
// The key may come from a journal: nothing of it becomes a path unseen.
func settingFile(key string) (string, error) {
	if file, ok := interfaceFiles[key]; ok {
		return file, nil
	}
	for _, f := range queueFiles {
		name, ok := strings.CutPrefix(key, f.prefix)
		if ok && queueName.MatchString(name) && strings.HasPrefix(name, f.direction+"-") {
			return filepath.Join("queues", name, f.file), nil
		}
	}
	return "", fmt.Errorf("%s is no setting of a queue", key)
}

func writeSetting(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
