// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// ServiceType says when a service is what others may need, in systemd's words.
type ServiceType string

// The types of services. The empty value means TypeSimple.
const (
	TypeSimple  ServiceType = "simple"  // it runs: once it was started
	TypeOneshot ServiceType = "oneshot" // it prepares something: once it has ended well
)

// How long a service may take from SIGTERM to its end, in milliseconds: if it does not say,
// and at most, for no guest goes off before that.
const (
	DefaultStopTimeout = 5000
	maxStopTimeout     = 60 * 60 * 1000
)

// Bounds of what is remembered of a service's output, in bytes.
const (
	DefaultLogBytes = 64 << 10
	minLogBytes     = 4 << 10
	maxLogBytes     = 16 << 20
)

// maxServiceName is what a syslog message has room for (RFC 5424, APP-NAME).
const maxServiceName = 48

// reserved are the names of init's own programs, and of its directory below /run.
var reserved = []string{"init", "umbra", "shadowd", "deploy", "netcfgd", "logd", "ntpd", "statusd", "shell", DataNeed, UpdateName}

// User is whom a service runs as. Name and Home are only told to it.
type User struct {
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups,omitempty"` // supplementary
	Name   string `json:"name,omitempty"`
	Home   string `json:"home,omitempty"`
}

// Limits bound what a service and all its children use, by cgroup v2. Zero is no limit.
type Limits struct {
	MemoryMB   int `json:"memory_mb,omitempty" toml:"memory_mb"`     // MiB; beyond, all of the service is killed
	CPUPercent int `json:"cpu_percent,omitempty" toml:"cpu_percent"` // of one processor
	CPUWeight  int `json:"cpu_weight,omitempty" toml:"cpu_weight"`   // share where processors are short, 100 without
	PIDs       int `json:"pids,omitempty" toml:"pids"`               // processes and threads
}

// Log says where the lines of programs go beside the console.
type Log struct {
	// Syslog is udp://ADDRESS:PORT or tcp://ADDRESS:PORT, nowhere if empty.
	Syslog string `json:"syslog,omitempty" toml:"syslog"`
}

// syslogPort is that of RFC 5426, section 3.3.
const syslogPort = 514

// Target returns the network, udp or tcp, and the address that lines are sent to; the
// network is empty if they are not.
func (l Log) Target() (network string, addr netip.AddrPort, err error) {
	if l.Syslog == "" {
		return "", netip.AddrPort{}, nil
	}
	u, err := url.Parse(l.Syslog)
	if err != nil || u.Scheme != "udp" && u.Scheme != "tcp" || u.Host != strings.TrimPrefix(l.Syslog, u.Scheme+"://") {
		return "", netip.AddrPort{}, fmt.Errorf("want udp://ADDRESS:PORT or tcp://ADDRESS:PORT")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && u.Port() == "" {
		return u.Scheme, netip.AddrPortFrom(ip, syslogPort), nil
	}
	if addr, err = netip.ParseAddrPort(u.Host); err != nil || addr.Port() == 0 {
		return "", netip.AddrPort{}, fmt.Errorf("want an address, not a name, and a port, such as udp://10.0.2.2:514")
	}
	return u.Scheme, addr, nil
}

// Confined reports whether the service has less than all that root has.
func (s *Service) Confined() bool {
	return s.User != nil || s.Capabilities != nil || s.ReadOnlyRoot == On
}

// setConfinementDefaults fills in what was left empty of what this file is about.
func (s *Service) setConfinementDefaults() {
	if s.Type == "" {
		s.Type = TypeSimple
	}
	if s.Restart == "" && s.Type == TypeOneshot {
		s.Restart = RestartOnFailure
	}
	if s.StopTimeout == 0 {
		s.StopTimeout = DefaultStopTimeout
	}
	if s.LogBytes == 0 {
		s.LogBytes = DefaultLogBytes
	}
	if s.ReadOnlyRoot == "" {
		s.ReadOnlyRoot = Off
	}
	if s.NoNewPrivileges == "" {
		// Who may do everything anyway gains nothing; who may not is not to gain it
		// by a setuid program.
		s.NoNewPrivileges = Off
		if s.Confined() {
			s.NoNewPrivileges = On
		}
	}
}

func (k *checker) supervision(field string, s *Service) {
	switch s.Type {
	case TypeSimple, "":
	case TypeOneshot:
		if s.Restart == RestartAlways {
			k.fail(field+".restart", string(s.Restart), "a oneshot that is started again when all went well never ends")
		}
	default:
		k.fail(field+".type", string(s.Type), "want simple or oneshot")
	}
	if n := s.StopTimeout; n < 0 || n > maxStopTimeout {
		k.fail(field+".stop_timeout_ms", "", "%d: want at most %d", n, maxStopTimeout)
	}
	if n := s.LogBytes; n != 0 && (n < minLogBytes || n > maxLogBytes) {
		k.fail(field+".log_bytes", "", "%d: want %d to %d", n, minLogBytes, maxLogBytes)
	}
	for _, l := range []struct {
		key         string
		n           int
		least, most int
	}{
		{"memory_mb", s.Limits.MemoryMB, 1, 1 << 20},
		{"cpu_percent", s.Limits.CPUPercent, 1, 100 * 1024},
		{"cpu_weight", s.Limits.CPUWeight, 1, 10_000}, // kernel/sched: CGROUP_WEIGHT_MAX
		{"pids", s.Limits.PIDs, 1, 1 << 22},           // include/linux/threads.h: PID_MAX_LIMIT
	} {
		if l.n != 0 && (l.n < l.least || l.n > l.most) {
			k.fail(field+".limits."+l.key, "", "%d: want %d to %d", l.n, l.least, l.most)
		}
	}
}

// maxID is below the number that chown(2) and its like take for "leave it".
const maxID = 1<<32 - 2

func (k *checker) confinement(field string, s *Service) {
	if u := s.User; u != nil {
		for _, id := range append([]int{u.UID, u.GID}, u.Groups...) {
			if id < 0 || id > maxID {
				k.fail(field+".user", "", "%d is no number of a user or group", id)
			}
		}
	}
	for i, name := range s.Capabilities {
		if _, err := cap.FromName(strings.ToLower(name)); err != nil || !strings.HasPrefix(name, "CAP_") {
			k.fail(fmt.Sprintf("%s.capabilities[%d]", field, i), name, "no such capability; want a name such as CAP_NET_BIND_SERVICE")
		}
	}
	k.position(field+".no_new_privileges", s.NoNewPrivileges)
	k.position(field+".read_only_root", s.ReadOnlyRoot)
	for i, dir := range s.Writable {
		key := fmt.Sprintf("%s.writable[%d]", field, i)
		switch {
		case !path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/":
			k.fail(key, dir, "want the absolute path of a directory below /")
		case s.ReadOnlyRoot != On:
			k.fail(key, dir, "all is writable unless read_only_root is on")
		}
	}
}

func (k *checker) log(l Log) {
	if _, _, err := l.Target(); err != nil {
		k.fail("log.syslog", l.Syslog, "%w", err)
	}
}

// needs checks that all that services need can be had: there are roles and services of
// these names, or a disk for data, and no service waits for itself.
func (k *checker) needs(services []Service, roles, byName map[string]int, data Data) {
	for i, s := range services {
		for j, need := range s.Needs {
			field := fmt.Sprintf("services[%d].needs[%d]", i, j)
			_, role := roles[need]
			_, service := byName[need]
			switch {
			case role, service, need == DataNeed && data.Enabled():
			case need == DataNeed:
				k.fail(field, need, "no disk for data is described")
			default:
				k.fail(field, need, "no role or service has that name")
			}
			if way := wayBack(services, byName, need, s.Name, make(map[string]bool)); way != nil {
				k.fail(field, need, "%s waits for itself: %s", s.Name, strings.Join(append([]string{s.Name}, way...), " needs "))
			}
		}
	}
}

// wayBack returns the services by which from needs to, both included, nil if it does not.
// Those that were seen do not need it.
func wayBack(services []Service, byName map[string]int, from, to string, seen map[string]bool) []string {
	i, ok := byName[from]
	if !ok || seen[from] {
		return nil
	}
	if from == to {
		return []string{from}
	}
	seen[from] = true
	for _, need := range services[i].Needs {
		if way := wayBack(services, byName, need, to, seen); way != nil {
			return append([]string{from}, way...)
		}
	}
	return nil
}
