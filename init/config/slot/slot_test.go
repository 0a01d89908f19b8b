// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package slot

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		rule, text string
		want       Slot
	}{
		{"a version is numbers", "app-1.4.2", Slot{"app", "1.4.2"}},
		{"one is enough", "app-0", Slot{"app", "0"}},
		{"an image may have dashes and dots in its name", "my-app_2.x-10.1", Slot{"my-app_2.x", "10.1"}},
		{"five are too many", "app-1.2.3.4.5", Slot{}},
		{"a leading zero would compare in two ways", "app-1.02", Slot{}},
		{"so would letters", "app-1.2rc1", Slot{}},
		{"nor is an empty number one", "app-1.", Slot{}},
		{"there must be a version", "app", Slot{}},
		{"and an image", "-1", Slot{}},
		{"whose name is no path", "a/b-1", Slot{}},
		{"and has no counter in it", "a+3-1", Slot{}},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			got, err := Parse(tt.text)
			if got != tt.want || (err == nil) != (tt.want != Slot{}) {
				t.Fatalf("%q is %+v, %v", tt.text, got, err)
			}
			if err != nil && !errors.Is(err, ErrName) {
				t.Errorf("error %v does not match ErrName", err)
			}
		})
	}
}

func TestCompare(t *testing.T) {
	for _, tt := range []struct {
		rule, older, newer string
	}{
		{"numbers count, not letters", "1.9", "1.10"},
		{"the first number counts most", "1.99.99", "2"},
		{"a point release is newer", "1.4", "1.4.0"},
		{"large numbers too", "99999999", "100000000"},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if Compare(tt.older, tt.newer) >= 0 || Compare(tt.newer, tt.older) <= 0 {
				t.Errorf("%s is not older than %s", tt.older, tt.newer)
			}
			if Compare(tt.newer, tt.newer) != 0 {
				t.Errorf("%s is not itself", tt.newer)
			}
		})
	}
}

func TestParseFile(t *testing.T) {
	app := Slot{"app", "1.2"}
	for _, tt := range []struct {
		rule, name string
		want       Entry
		ok         bool
	}{
		{"what has proved itself has no counter", app.File(), Entry{Slot: app}, true},
		{"what is new has all its tries", app.TryFile(), Entry{Slot: app, OnTrial: true, Left: Tries}, true},
		{"then fewer", "app-1.2+2-1.efi", Entry{Slot: app, OnTrial: true, Left: 2, Done: 1}, true},
		{"then none", "app-1.2+0-3.efi", Entry{Slot: app, OnTrial: true, Done: 3}, true},
		{"a counter is a number", "app-1.2+x.efi", Entry{}, false},
		{"and not negative", "app-1.2+-1.efi", Entry{}, false},
		{"there is one", "app-1.2+3+2.efi", Entry{}, false},
		{"what is being written is no entry", "update.tmp", Entry{}, false},
		{"nor is another system's", "debian.efi", Entry{}, false},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if tt.ok {
				tt.want.Name = tt.name
			}
			got, ok := ParseFile(tt.name)
			if ok != tt.ok {
				t.Fatalf("%q is an entry: %t", tt.name, ok)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%q (-want +got):\n%s", tt.name, diff)
			}
		})
	}
}

func FuzzParseFile(f *testing.F) {
	for _, name := range []string{"app-1.2.efi", "app-1.2+3.efi", "a-b-1.2+0-3.efi", "+.efi", "app-1+99999999999-1.efi", "-.efi", ""} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		e, ok := ParseFile(name)
		switch {
		case !ok && e != Entry{}:
			t.Errorf("%q is no entry, and %+v", name, e)
		case ok && !e.OnTrial && e.File() != name:
			t.Errorf("%q is %+v, whose file is %q", name, e, e.File())
		case ok && (e.Left < 0 || e.Done < 0 || Compare(e.Version, e.Version) != 0):
			t.Errorf("%q is %+v", name, e)
		}
	})
}

func TestDisk(t *testing.T) {
	running := Slot{"app", "1.2"}
	for _, tt := range []struct {
		rule   string
		names  []string
		next   Slot
		err    error
		starts string // next time, of what is there
		failed string
	}{
		{"a newer version is taken", []string{"app-1.2.efi"}, Slot{"app", "1.10"}, nil, "", ""},
		{"beside an older one", []string{"app-1.2.efi", "app-1.1.efi"}, Slot{"app", "2"}, nil, "", ""},
		{"an older one would never be started", []string{"app-1.2.efi"}, Slot{"app", "1.1"}, ErrNotNewer, "", ""},
		{"the one that runs is never written over", []string{"app-1.2.efi"}, running, ErrNotNewer, "", ""},
		{"another appliance is refused", []string{"app-1.2.efi"}, Slot{"other", "2"}, ErrOtherImage, "", ""},
		{"on trial the other one is needed", []string{"app-1.2+2-1.efi", "app-1.1.efi"}, Slot{"app", "2"}, ErrOnTrial, "", ""},
		{"what the disk has not was not booted from it", []string{"app-1.1.efi"}, Slot{"app", "2"}, ErrNone, "", ""},
		{"another appliance's file is not it", []string{"my-app-1.2.efi"}, Slot{"app", "2"}, ErrNone, "", ""},
		{"a version that waits is replaced", []string{"app-1.2.efi", "app-1.3+3.efi"}, Slot{"app", "1.4"}, nil, "1.3", ""},
		{"one that failed may come again", []string{"app-1.3+0-3.efi", "app-1.2.efi"}, Slot{"app", "1.3"}, nil, "", "1.3"},
		{"where both are there, it has proved itself", []string{"app-1.2.efi", "app-1.2+2-1.efi"}, Slot{"app", "2"}, nil, "", ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			d, err := Look(running, tt.names)
			if err == nil {
				err = errors.Join(d.Ready(), d.Takes(tt.next))
			}
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%s: %v, want %v", tt.next, err, tt.err)
			}
			if e, _ := d.Next(); e.Version != tt.starts {
				t.Errorf("%q is started next, want %q", e.Version, tt.starts)
			}
			if e, _ := d.Failed(); e.Version != tt.failed {
				t.Errorf("%q has failed, want %q", e.Version, tt.failed)
			}
		})
	}
}

func TestStale(t *testing.T) {
	names := []string{"app-1.2.efi", "app-1.1.efi", "app-1.3+0-3.efi", "app-1.3+3.efi", "other-1.efi", "app-1.2+2-1.efi", "update.tmp"}
	d, err := Look(Slot{"app", "1.2"}, names)
	if err != nil {
		t.Fatal(err)
	}
	got := d.Stale("app-1.3+3.efi")
	if diff := cmp.Diff([]string{"app-1.3+0-3.efi", "app-1.1.efi"}, got); diff != "" {
		t.Errorf("files without a use (-want +got):\n%s", diff)
	}
}
