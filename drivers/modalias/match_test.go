// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package modalias

import (
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		rule          string
		pattern, name string
		want          bool
	}{
		{"text matches itself", "xen:vif", "xen:vif", true},
		{"text is compared to its end", "xen:vif", "xen:vif2", false},
		{"a pattern is used up to its end", "xen:vif2", "xen:vif", false},
		{"case counts", "pci:v00008086", "PCI:v00008086", false},
		{"the empty pattern matches the empty name", "", "", true},
		{"the empty pattern matches nothing else", "", "a", false},

		{"a star matches nothing", "a*b", "ab", true},
		{"a star matches any text", "pci:v*d*sv*", "pci:v00008086d0000100Esv00001AF4", true},
		{"a star matches a slash", "of:N*T*Cvirtio,mmio*", "of:Na/bTxCvirtio,mmioC", true},
		{"a star matches a leading dot", "*", ".x", true},
		{"stars in a row are one", "a***b", "axxb", true},
		{"a star at the end matches the rest", "virtio:d00000001v*", "virtio:d00000001v00001AF4", true},
		{"a star gives back what it took too much", "*ab*ab", "xababab", true},
		{"a star cannot make up for what is missing", "*ab*c", "xabab", false},
		{"many stars do not take exponential time", strings.Repeat("a*", 60) + "b", strings.Repeat("a", 2000), false},

		{"a question mark is one byte", "a?c", "abc", true},
		{"a question mark is not no byte", "a?c", "ac", false},
		{"a question mark matches a slash", "a?c", "a/c", true},

		{"a set matches its members", "d0[02]", "d02", true},
		{"a set does not match others", "d0[02]", "d01", false},
		{"a set has ranges", "usb:v1645p0007d01[0-2]*dc*", "usb:v1645p0007d0111dc00", true},
		{"a range ends", "usb:v1645p0007d01[0-2]*dc*", "usb:v1645p0007d0131dc00", false},
		{"a set has several ranges", "[0-9A-F]", "C", true},
		{"a set matches a slash", "a[/]b", "a/b", true},
		{"! makes a complement", "[!0-2]", "3", true},
		{"a complement does not match members", "[!0-2]", "1", false},
		{"^ makes a complement", "[^0-2]", "1", false},
		{"a complement is one byte", "a[!b]", "a", false},
		{"] in first place is a member", "[]a]", "]", true},
		{"] in first place of a complement is a member", "[!]a]", "]", false},
		{"- in last place is a member", "[a-]", "-", true},
		{"a set after a star", "d*[0-2]z", "d771z", true},
		{"an open set is text", "a[b", "a[b", true},
		{"an open set is only text", "a[b", "ab", false},
		{"an open complement is text", "[!", "[!", true},
		{"a set may hold an escaped ]", `[\]]`, "]", true},

		{"a backslash takes the meaning of a star", `a\*`, "a*", true},
		{"an escaped star is no wildcard", `a\*`, "ab", false},
		{"a backslash before a letter is that letter", `\a`, "a", true},
		{"a backslash at the end matches nothing", `a\`, `a\`, false},
	} {
		if got := Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%s: Match(%q, %q) = %v", tt.rule, tt.pattern, tt.name, got)
		}
	}
}

func TestOfDevice(t *testing.T) {
	for _, tt := range []struct {
		rule, alias string
		want        bool
	}{
		{"a device has a bus", "pci:v00008086d0000100Esv*sd*bc*sc*i*", true},
		{"so has a disk", "scsi:t-0x00*", true},
		{"a file system has none", "fs-ext4", false},
		{"for a node in /dev programs ask", "devname:net/tun", false},
	} {
		if got := OfDevice(tt.alias); got != tt.want {
			t.Errorf("%s: OfDevice(%q) = %t", tt.rule, tt.alias, got)
		}
	}
}

func TestNormalize(t *testing.T) {
	for _, tt := range []struct{ rule, in, want string }{
		{"a name without dashes stays", "8139cp", "8139cp"},
		{"dashes become underscores", "snd-hda-codec-hdmi", "snd_hda_codec_hdmi"},
		{"the range in a set stays", "xen-a[0-2]-b", "xen_a[0-2]_b"},
		{"an open set is no set", "a[0-2", "a[0_2"},
		{"a set can stand first", "[a-c]-d", "[a-c]_d"},
	} {
		if got := Normalize(tt.in); got != tt.want {
			t.Errorf("%s: Normalize(%q) = %q, want %q", tt.rule, tt.in, got, tt.want)
		}
	}
}

// slowMatch is Match by the definition: try every length for a star.
func slowMatch(pattern, name string) bool {
	if pattern == "" {
		return name == ""
	}
	if pattern[0] == '*' {
		return slowMatch(pattern[1:], name) || name != "" && slowMatch(pattern, name[1:])
	}
	if name == "" {
		return false
	}
	width := matchOne(pattern, name[0])
	return width > 0 && slowMatch(pattern[width:], name[1:])
}

func FuzzMatch(f *testing.F) {
	f.Add("pci:v*d00008139sv000010ECsd*bc*sc*i*", "pci:v000010ECd00008139sv000010ECsd00008139bc02sc00i00")
	f.Add("usb:v13FDp3940d0[0-2]*dc*", "usb:v13FDp3940d0209dc00")
	f.Add("*a*b*[!c-", "xaybzc")
	f.Add(`[]-a]\`, "]")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 24 || len(name) > 24 {
			return // slowMatch takes exponential time
		}
		if got, want := Match(pattern, name), slowMatch(pattern, name); got != want {
			t.Errorf("Match(%q, %q) = %v", pattern, name, got)
		}
		n := Normalize(pattern)
		if len(n) != len(pattern) || Normalize(n) != n {
			t.Errorf("Normalize(%q) = %q", pattern, n)
		}
	})
}
