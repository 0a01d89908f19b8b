// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package archtest

import (
	"fmt"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/umbra-vm/umbra/image"
)

// row is a line of a table whose first cell is code, and its other cells.
var row = regexp.MustCompile("(?m)^\\| `([^`]+)`[^|]*\\|(.*)\\|$")

// keys lists the TOML keys of a type with their values, in the form in which
// the documents write them: arrays of tables without an index.
func keys(prefix string, v reflect.Value, add func(key string, v reflect.Value)) {
	for v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct {
		if v.Len() == 0 {
			v = reflect.Zero(v.Type().Elem())
			break
		}
		v = v.Index(0)
	}
	if v.Kind() != reflect.Struct || prefix == "role.vlan.network" { // told once, as role.network
		add(prefix, v)
		return
	}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("toml"), ",")
		if name == "" {
			continue
		}
		if prefix != "" {
			name = prefix + "." + name
		}
		keys(name, v.Field(i), add)
	}
}

func TestConfigurationHasEveryKey(t *testing.T) {
	const doc = "docs/configuration.md"
	c, err := image.Parse("app.toml", []byte("[[role]]\nname = \"net0\"\nclass = \"net\"\n[[service]]\nname = \"app\"\nexec = [\"/app\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]string) // key: default
	for _, m := range row.FindAllStringSubmatch(read(t, doc), -1) {
		cell, _, _ := strings.Cut(m[2], "|")
		told[m[1]] = strings.TrimSpace(cell)
	}
	// Where the default is no value but a rule, and where init fills it in.
	rules := []string{
		"image.name", "role.name", "role.class", "service.name", "service.exec", "role.mac", "role.standby.pair", "role.network.dns",
		"role.network.ipv6", "drivers.classes", "packages.exclude", "service.user", "service.capabilities", "service.no_new_privileges", "update.slot_mb",
	}
	guests := map[string]string{
		"image.hostname": "umbra", "image.shadow": "on", "role.network.method": "dhcp", "role.hold.bytes": "16777216", "role.hold.frames": "65536",
		"role.hasten": "off", "role.shortcut": "off", "update.settle_s": "10", "update.timeout_s": "300", "ntp.dhcp": "off",
		"service.dir": "/", "service.restart": "always", "service.backoff_ms.min": "100", "service.backoff_ms.max": "30000",
		"service.type": "simple", "service.stop_timeout_ms": "5000", "service.log_bytes": "65536", "service.read_only_root": "off",
	}
	seen := 0
	keys("", reflect.ValueOf(*c), func(key string, v reflect.Value) {
		seen++
		text, ok := told[key]
		delete(told, key)
		if !ok {
			t.Errorf("%s does not tell of key %s", doc, key)
			return
		}
		want := ""
		if _, filled := guests[key]; filled {
			want = guests[key]
		} else if v.Kind() == reflect.Bool || !v.IsZero() {
			want = fmt.Sprint(v.Interface())
		}
		if want != "" {
			want = "`" + want + "`"
		}
		if !slices.Contains(rules, key) && text != want {
			t.Errorf("%s says that the default of %s is %q, it is %q", doc, key, text, want)
		}
	})
	for key := range told {
		if !strings.HasPrefix(key, "umbra.") && !strings.HasPrefix(key, "umbra_") { // of the kernel command line, and metrics
			t.Errorf("%s tells of key %s, which does not exist", doc, key)
		}
	}
	if seen < 30 {
		t.Errorf("only %d keys found", seen)
	}
}

func TestConfigurationHasEveryKernelParameter(t *testing.T) {
	code := unique(regexp.MustCompile(`case "(umbra\.[a-z]+)"`), read(t, "init/config/cmdline.go"))
	doc := unique(regexp.MustCompile("`(umbra\\.[a-z]+)"), read(t, "docs/configuration.md"))
	slices.Sort(code)
	slices.Sort(doc)
	if len(code) == 0 || !slices.Equal(code, doc) {
		t.Errorf("kernel parameters: the guest knows %v, the document %v", code, doc)
	}
}

// code returns what a document sets as code: blocks and spans.
func code(text string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			b.WriteString(line)
		default:
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line, -1) {
				b.WriteString(m[1] + "\n")
			}
		}
	}
	return b.String()
}

// Whoever types what a document says gets what it says.
func TestDocumentsSpeakOfCommandsThatExist(t *testing.T) {
	targets := unique(regexp.MustCompile(`(?m)^([a-z-]+):`), read(t, "Makefile"))
	verbs, flags := commands(t)
	guest := unique(regexp.MustCompile(`(?m)^  ([a-z]+) .*  `), guestUsage(t))
	if len(targets) < 5 || len(verbs) < 4 || len(flags) < 10 || len(guest) < 5 {
		t.Fatalf("targets %v, verbs %v, flags %v, shadowctl %v: not found where they were", targets, verbs, flags, guest)
	}
	for _, doc := range documents(t) {
		text := code(read(t, doc))
		for what, known := range map[string][]string{"make": targets, "umbra": verbs, "shadowctl": guest} {
			for _, word := range unique(regexp.MustCompile(`(?m)(?:^\s*|out/)`+what+` ([a-z-]*[a-z])\b`), text) {
				if !slices.Contains(known, word) {
					t.Errorf("%s speaks of %s %s; there are %v", doc, what, word, known)
				}
			}
		}
		for _, line := range regexp.MustCompile(`(?m)^.*\bumbra (?:[a-z]+).*(?:\\\n.*)?$`).FindAllString(text, -1) {
			for _, flag := range unique(regexp.MustCompile(`--([a-z][a-z-]*)`), line) {
				if flag != "help" && !slices.Contains(flags, flag) {
					t.Errorf("%s uses --%s in %q", doc, flag, line)
				}
			}
		}
	}
	for _, verb := range verbs {
		if !strings.Contains(read(t, "docs/commands.md"), "`umbra "+verb) {
			t.Errorf("docs/commands.md does not tell of umbra %s", verb)
		}
	}
	for _, cmd := range guest {
		if !strings.Contains(read(t, "docs/commands.md"), "`shadowctl "+cmd) {
			t.Errorf("docs/commands.md does not tell of shadowctl %s", cmd)
		}
	}
}

// commands returns umbra's verbs and all their flags.
func commands(t *testing.T) (verbs, flags []string) {
	files, err := filepath.Glob(filepath.Join(root, "cmd/umbra/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text := read(t, "cmd/umbra/"+filepath.Base(f))
		for _, use := range unique(regexp.MustCompile(`Use:\s+"([a-z]+)`), text) {
			if use != "umbra" {
				verbs = append(verbs, use)
			}
		}
		flags = append(flags, unique(regexp.MustCompile(`f\.\w+Var(?:P)?\(&[\w.]+, "([a-z-]+)"`), text)...)
	}
	return verbs, flags
}

// guestUsage is the text with which shadowctl explains itself.
func guestUsage(t *testing.T) string {
	_, rest, _ := strings.Cut(read(t, "init/shadowctl.go"), "const shadowctlUsage = `")
	usage, _, _ := strings.Cut(rest, "`")
	return usage
}

func TestExitCodesAreTold(t *testing.T) {
	codes := unique(regexp.MustCompile(`(?m)^\texit\w+\s+= (\d+)`), read(t, "cmd/umbra/exit.go"))
	told := unique(regexp.MustCompile(`(?m)^\| (\d+) \|`), read(t, "docs/commands.md"))
	if len(codes) == 0 || !slices.Equal(codes, told) {
		t.Errorf("umbra exits with %v, docs/commands.md tells of %v", codes, told)
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, doc := range documents(t) {
		for _, to := range unique(regexp.MustCompile(`\]\(([^)#]+)`), read(t, doc)) {
			if strings.Contains(to, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, path.Dir(doc), to)); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
	}
}

// promise is a row of the table of promises: a number, a sentence, the tests.
var (
	promise  = regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \| ([^|]+) \|$`)
	testName = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)\\w+)`")
)

func TestEveryPromiseNamesATest(t *testing.T) {
	tests := testsThatRun(t)
	for _, doc := range []string{"docs/migration.md", "docs/security.md"} {
		promises(t, doc, tests)
	}
}

// testsThatRun are those that make test gets to, as directory.Name.
func testsThatRun(t *testing.T) map[string]bool {
	tests := make(map[string]bool)
	inGuest := read(t, "ci/vmtests/inguest_test.go")
	for _, s := range sources(t) {
		tag := regexp.MustCompile(`(?m)^//go:build (.*)$`).FindStringSubmatch(s.text)
		run := tag == nil || tag[1] == "guest" && strings.Contains(inGuest, fmt.Sprintf("%q", s.dir()))
		if !s.isTest() || !run {
			continue // make test does not get to it
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				tests[s.dir()+"."+f.Name.Name] = true
			}
		}
	}
	return tests
}

// promises checks that each promise of a document is numbered and names tests.
func promises(t *testing.T, doc string, tests map[string]bool) {
	rows := promise.FindAllStringSubmatch(read(t, doc), -1)
	if len(rows) < 10 {
		t.Errorf("%s has %d promises: is it still a table?", doc, len(rows))
	}
	for i, m := range rows {
		if m[1] != fmt.Sprint(i+1) {
			t.Errorf("promise %s is the %d. of %s", m[1], i+1, doc)
		}
		named := testName.FindAllStringSubmatch(m[3], -1)
		if len(named) == 0 {
			t.Errorf("promise %s of %s (%s) names no test", m[1], doc, m[2])
		}
		for _, n := range named {
			if !tests[n[1]+"."+n[2]] {
				t.Errorf("promise %s of %s names %s.%s, which does not exist", m[1], doc, n[1], n[2])
			}
		}
	}
}
