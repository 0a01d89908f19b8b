// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package page

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/umbra-vm/umbra/init/statusd/internal/state"
	"github.com/umbra-vm/umbra/shadow/ctl"
)

// The metrics. Their names are an interface: docs/configuration.md lists them, and
// alerts depend on them.
var (
	descUp        = desc("up", "Whether the agent answered; without it there is nothing else.")
	descInfo      = desc("info", "The guest's umbra and kernel.", "version", "kernel", "shadow", "hostname")
	descUptime    = desc("uptime_seconds", "Since the guest booted, by CLOCK_BOOTTIME.")
	descSlot      = desc("slot_info", "Which version of the image runs, which is booted next if it is another, and which has not proved itself.", "version", "next", "failed")
	descConfirmed = desc("slot_confirmed", "Whether the version that runs has proved itself.")
	descTries     = desc("slot_tries_left", "The tries that the version that runs has left, if it is on trial.")
	descRole      = desc("role_info", "What serves a role now.", "role", "class", "device", "driver", "standby")
	descPassive   = desc("role_passive", "Whether a driver serves the role: 0 is active mode.", "role")
	descOnStandby = desc("role_on_standby", "Whether the standby carries what the role sends.", "role")
	descCarrier   = desc("role_carrier", "Whether the role's device has a link.", "role")
	descMode      = desc("role_mode_seconds", "How long the role has been in its mode.", "role")
	descHeld      = desc("role_held_frames", "Frames held now.", "role")
	descLog       = desc("role_log_operations", "Operations in the role's log.", "role")
	descDeferred  = desc("role_deferred_operations", "Of those, the ones that the device at hand cannot do.", "role")
	descCount     = desc("role_recoveries_total", "Recoveries of the role begun, its first start included.", "role")
	descLast      = desc("role_last_recovery_seconds", "What the role's last recovery took until passive mode.", "role", "cause")
	descFailed    = desc("role_last_recovery_failed", "Whether the role's last recovery met an error.", "role")
	descFrames    = desc("role_last_recovery_frames", "What became of frames in the role's last recovery.", "role", "fate")
	descRunning   = desc("service_running", "Whether a program runs.", "service", "state")
	descStarts    = desc("service_starts_total", "How often a program was started.", "service")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("umbra_"+name, help, labels, nil)
}

var descs = []*prometheus.Desc{
	descUp, descInfo, descUptime, descSlot, descConfirmed, descTries, descRole, descPassive, descOnStandby, descCarrier, descMode, descHeld, descLog, descDeferred,
	descCount, descLast, descFailed, descFrames, descRunning, descStarts,
}

// metrics serves them, of the state at that time.
func metrics(source Source, log *slog.Logger) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&collector{source})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), ErrorHandling: promhttp.HTTPErrorOnError,
	})
}

type collector struct{ source Source }

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s, err := c.source.Read(context.Background())
	m := measured(out)
	m.gauge(descUp, truth(err == nil))
	if err != nil {
		return
	}
	st := s.Status
	m.gauge(descInfo, 1, st.Version, st.Kernel, st.Shadow, st.Hostname)
	m.gauge(descUptime, float64(st.Boottime)/1e9)
	if u := st.Update; u != nil {
		m.gauge(descSlot, 1, u.Version, u.Next, u.Failed)
		m.gauge(descConfirmed, truth(u.State == ctl.UpdateConfirmed))
		if u.State == ctl.UpdateOnTrial {
			m.gauge(descTries, float64(u.TriesLeft))
		}
	}
	for _, r := range st.Roles {
		m.role(r, st.Boottime)
		m.recoveries(r.Name, s)
	}
	for _, svc := range s.Services {
		m.gauge(descRunning, truth(svc.State == running), svc.Name, svc.State)
		m.counter(descStarts, svc.Starts, svc.Name)
	}
}

// measured is where metrics go.
type measured chan<- prometheus.Metric

// Label values are made valid: what is not UTF-8 would cost a scrape all metrics.
func (m measured) send(d *prometheus.Desc, t prometheus.ValueType, v float64, labels []string) {
	for i, l := range labels {
		labels[i] = plain(l)
	}
	m <- prometheus.MustNewConstMetric(d, t, v, labels...)
}

func (m measured) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.send(d, prometheus.GaugeValue, v, labels)
}

func (m measured) counter(d *prometheus.Desc, v int, labels ...string) {
	m.send(d, prometheus.CounterValue, float64(v), labels)
}

func (m measured) role(r ctl.RoleStatus, now int64) {
	m.gauge(descRole, 1, r.Name, r.Class, r.Device, r.Driver, r.Standby)
	m.gauge(descPassive, truth(r.Mode == ctl.ModePassive), r.Name)
	m.gauge(descOnStandby, truth(r.OnStandby), r.Name)
	m.gauge(descCarrier, truth(r.Carrier), r.Name)
	m.gauge(descMode, float64(now-r.Since)/1e9, r.Name)
	m.gauge(descHeld, float64(r.Held), r.Name)
	m.gauge(descLog, float64(r.Log), r.Name)
	m.gauge(descDeferred, float64(r.Deferred), r.Name)
}

// recoveries measures the last one that is over, as the agent keeps only some of them,
// and counts all by the number of the last.
func (m measured) recoveries(role string, s *state.State) {
	var count uint64
	var last *ctl.Timeline
	for i, t := range s.Timelines {
		if t.Role != role {
			continue
		}
		count = max(count, t.Recovery)
		if _, over := t.Stamp(ctl.StampPassive); over {
			last = &s.Timelines[i]
		}
	}
	m.counter(descCount, int(count), role)
	if last == nil {
		return
	}
	took, _ := last.Since(ctl.StampPassive)
	m.gauge(descLast, took.Seconds(), role, last.Cause)
	m.gauge(descFailed, truth(last.Error != ""), role)
	for fate, n := range map[string]int{
		"held": last.Frames.Held, "harvested": last.Frames.Harvested, "resent": last.Frames.Resent, "dropped": last.Frames.Dropped,
	} {
		m.gauge(descFrames, float64(n), role, fate)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
