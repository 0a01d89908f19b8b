// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package config

// Links are the names of /init in the guest, by which it knows what it is to be. The image
// has them; PID 1 makes those that are missing.
var Links = []string{
	"/sbin/shadowd", "/sbin/netcfgd", "/sbin/logd", "/sbin/ntpd", "/sbin/mount-data", "/sbin/confirm-update",
	"/sbin/exec-service", "/sbin/poweroff", "/sbin/reboot", "/sbin/halt", "/bin/shadowctl",
}
