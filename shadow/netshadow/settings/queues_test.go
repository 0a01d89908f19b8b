// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package settings

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/umbra-vm/umbra/shadow/oplog"
)

// sysfsDir makes a directory like that of an interface with two queues.
func sysfsDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestQueues(t *testing.T) {
	dir := sysfsDir(t, map[string]string{
		"threaded": "0\n", "gro_flush_timeout": "20000\n", "napi_defer_hard_irqs": "2\n", "address": "52:54:00:00:00:01\n",
		"queues/rx-0/rps_cpus": "3\n", "queues/rx-0/rps_flow_cnt": "0\n",
		"queues/tx-0/xps_cpus": "00000000,00000001\n", "queues/tx-0/tx_timeout": "0\n",
	})
	got, err := getQueues(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := Values{
		"net.napi.threaded": "off", "net.napi.gro-flush-timeout": "20000", "net.napi.defer-hard-irqs": "2",
		"net.rps.cpus.rx-0": "3", "net.rps.flows.rx-0": "0", "net.xps.cpus.tx-0": "00000000,00000001",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read (-want +got)\n%s", diff)
	}
	for key, value := range got {
		if o, ok := lookup(key); !ok || o.group != groupQueues || o.check(value) != nil {
			t.Errorf("%s=%s is read and cannot be set", key, value)
		}
	}
	if err := setQueues(dir, ops(t, "net.napi.threaded=on", "net.rps.cpus.rx-0=1")); err != nil {
		t.Fatal(err)
	}
	want["net.napi.threaded"], want["net.rps.cpus.rx-0"] = "on", "1"
	if got, err = getQueues(dir); err != nil || !cmp.Equal(want, got) {
		t.Errorf("after it was set %v, %v", got, err)
	}
}

func TestQueueErrors(t *testing.T) {
	dir := sysfsDir(t, map[string]string{"threaded": "0\n", "queues/rx-0/rps_cpus": "0\n", "secret": "1"})
	if _, err := getQueues(filepath.Join(dir, "none")); !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there: %v", err)
	}
	for name, tt := range map[string]struct {
		op   oplog.Op
		want error
	}{
		"a queue that is not there":              {oplog.Set("net.rps.cpus.rx-7", "1"), unix.ENOENT},
		"a transmit queue has no receive masks":  {oplog.Set("net.rps.cpus.tx-0", "1"), refusal{}},
		"a name that leads out of the directory": {oplog.Set("net.rps.cpus.rx-0/../../../secret", "1"), refusal{}},
		"a setting of another kind":              {oplog.Set("net.mtu", "1"), refusal{}},
	} {
		t.Run(name, func(t *testing.T) {
			err := setQueues(dir, []oplog.Op{tt.op})
			if err == nil || !refused(err) {
				t.Fatalf("%v, want a refusal", err)
			}
			if errno, ok := tt.want.(unix.Errno); ok && !errors.Is(err, errno) {
				t.Errorf("%v, want %v", err, errno)
			}
		})
	}
}
