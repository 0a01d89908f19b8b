// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package image turns a description (TOML) into something that boots: kernel,
// initramfs with init, drivers and the user's programs, and the files a
// hypervisor wants beside them.
//
// The same input gives the same bytes. The package knows the guest only through
// the schema of its configuration, [config.Config]; it must never know what
// init or a shadow does with it.
package image

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/umbra-vm/umbra/image/machine"
	"github.com/umbra-vm/umbra/init/config"
	"github.com/umbra-vm/umbra/init/config/position"
)

// Example is a description that shows every key.
//
//go:embed example.toml
var Example string

// DefaultFile is the name of a description that lies beside what it describes.
const DefaultFile = "umbra.toml"

// Config is the description of an image, the TOML file of umbra build.
type Config struct {
	Image    Image             `toml:"image"`
	Kernel   Kernel            `toml:"kernel"`
	Packages Packages          `toml:"packages"`
	Drivers  Drivers           `toml:"drivers"`
	Roles    []config.Role     `toml:"role"`
	Services []Service         `toml:"service"`
	Log      config.Log        `toml:"log"`
	NTP      config.NTP        `toml:"ntp"`
	Status   config.StatusPage `toml:"status"`
	Data     config.Data       `toml:"data"`
	Update   Update            `toml:"update"`
	Security Security          `toml:"security"`
	Machine  MachineDefaults   `toml:"machine"`

	file string // as given to Load, for errors
	dir  string // what relative paths in the file are relative to
	pos  position.Map
}

// Image holds what concerns the image as a whole.
type Image struct {
	// Name names the image and its xl.cfg. Default: the file's, without .toml; of
	// umbra.toml, that of its directory.
	Name        string      `toml:"name"`
	Hostname    string      `toml:"hostname"`    // default: umbra
	Compression Compression `toml:"compression"` // of the initramfs, default zstd
	Cmdline     string      `toml:"cmdline"`     // added to the kernel command line
	Files       []string    `toml:"files"`       // "source:path in the guest"

	// AuthorizedKeys are public keys of those who may log in, for a service.
	AuthorizedKeys []string `toml:"authorized_keys"`
	// Outputs are made beside kernel and initramfs.
	Outputs []Output `toml:"outputs"`

	// BIOS makes disk and ISO start by a BIOS, too, from a second copy of kernel and
	// initramfs.
	BIOS bool `toml:"bios"`

	// DataMB is the size in MiB of a partition for data on the disk, of the name that
	// data.partition gives. Default: there is none.
	DataMB int `toml:"data_mb"`

	// Sign is a command, with arguments, that signs the unified kernel image.
	Sign []string `toml:"sign"`

	// Shadow "off" builds an image that uses its hardware directly.
	Shadow config.Switch `toml:"shadow"`

	// Debug adds a shell and a few tools, and makes the guest talkative.
	Debug bool `toml:"debug"`
}

// Compression names how the initramfs is compressed.
type Compression string

// The compressions of an initramfs that Debian's kernel can undo and that are
// worth having: zstd boots faster, xz is smaller.
const (
	Zstd Compression = "zstd"
	XZ   Compression = "xz"
)

// Suffix is the suffix of a file compressed so.
func (c Compression) Suffix() string {
	if c == XZ {
		return "xz"
	}
	return "zst"
}

// Kernel says where the kernel comes from: a Debian package by name, a .deb
// file, or a kernel image with the directory of its modules.
type Kernel struct {
	Package string `toml:"package"` // default: linux-image-amd64
	Deb     string `toml:"deb"`
	Vmlinuz string `toml:"vmlinuz"`
	Modules string `toml:"modules"` // lib/modules/RELEASE
}

// Drivers selects modules. What they depend on comes with them.
type Drivers struct {
	// Classes are names of sets, see [Classes]. Default when neither classes
	// nor modules are given: qemu-net.
	Classes []string `toml:"classes"`
	Modules []string `toml:"modules"`
}

// Service is a program of the user that init supervises.
type Service struct {
	Name string `toml:"name"`

	// Go is the directory of a Go main package, of whatever module. It is compiled to
	// the program that Exec names.
	Go    string   `toml:"go"`
	Exec  []string `toml:"exec"`  // default with Go: /bin/NAME
	Files []string `toml:"files"` // "source:path in the guest"
	Env   []string `toml:"env"`
	Dir   string   `toml:"dir"`
	Needs []string `toml:"needs"` // roles and services

	Type        config.ServiceType `toml:"type"`
	Restart     config.Restart     `toml:"restart"`
	Backoff     config.Backoff     `toml:"backoff_ms"`
	StopTimeout int                `toml:"stop_timeout_ms"`
	Limits      config.Limits      `toml:"limits"`
	LogBytes    int                `toml:"log_bytes"`

	// User is USER, USER:GROUP or their numbers, as the image's /etc/passwd and
	// /etc/group have them; root if empty. Groups are further ones.
	User            string        `toml:"user"`
	Groups          []string      `toml:"groups"`
	Capabilities    []string      `toml:"capabilities"`
	NoNewPrivileges config.Switch `toml:"no_new_privileges"`
	ReadOnlyRoot    config.Switch `toml:"read_only_root"`
	Writable        []string      `toml:"writable"`
}

// MachineDefaults shape the files for hypervisors written beside the image.
type MachineDefaults struct {
	MemoryMB int          `toml:"memory_mb"` // default 256
	CPUs     int          `toml:"cpus"`      // default 1
	Type     machine.Type `toml:"type"`      // QEMU's, default pc
	NIC      string       `toml:"nic"`       // QEMU device, default e1000

	// Hostdevs are the PCI addresses of devices of the host's that the files for xl
	// and libvirt give to the guest, one a role.
	Hostdevs []string `toml:"hostdevs"`
}

// ErrConfig is matched by every error that the description of an image is to
// blame for.
var ErrConfig = errors.New("invalid image description")

// ConfigError names the place of a fault in the description.
type ConfigError struct {
	File string
	Line int    // 1 is the first; 0 if the fault has no place
	Key  string // path of the key: role[0].network.gateway
	Err  error
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns the reason, and [ErrConfig] for every ConfigError.
func (e *ConfigError) Unwrap() []error { return []error{ErrConfig, e.Err} }

// Load reads and checks the description in the file of that name. Relative
// paths in it are relative to its directory. Faults of the content match
// [ErrConfig] and are [*ConfigError] naming file, line and key, joined if
// there are several. Whether the modules exist is known only when the kernel
// is, see [Build].
func Load(name string) (*Config, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read image description: %w", err)
	}
	return Parse(name, text)
}

// Parse is Load on a text; name is the name of its file, which need not exist.
func Parse(name string, text []byte) (*Config, error) {
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("read image description: %w", err)
	}
	c := &Config{file: name, dir: dir}
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return nil, c.decodeError(err)
	}
	c.pos = position.Find(text)
	c.setDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// decodeError gives the decoder's errors our form.
func (c *Config) decodeError(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var errs []error
		for _, e := range strict.Errors {
			row, _ := e.Position()
			errs = append(errs, &ConfigError{File: c.file, Line: row, Key: strings.Join(e.Key(), "."), Err: errors.New("no such key")})
		}
		return errors.Join(errs...)
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		row, _ := bad.Position()
		return &ConfigError{File: c.file, Line: row, Key: strings.Join(bad.Key(), "."), Err: errors.New(strings.TrimPrefix(bad.Error(), "toml: "))}
	}
	return &ConfigError{File: c.file, Err: err}
}

func (c *Config) setDefaults() {
	if c.Image.Name == "" {
		c.Image.Name = strings.TrimSuffix(filepath.Base(c.file), filepath.Ext(c.file))
		if filepath.Base(c.file) == DefaultFile {
			c.Image.Name = filepath.Base(c.dir)
		}
	}
	if c.Image.Compression == "" {
		c.Image.Compression = Zstd
	}
	if c.Kernel == (Kernel{}) {
		c.Kernel.Package = "linux-image-amd64"
	}
	if len(c.Drivers.Classes) == 0 && len(c.Drivers.Modules) == 0 {
		c.Drivers.Classes = []string{"qemu-net"}
	}
	if c.Packages.Exclude == nil {
		c.Packages.Exclude = slices.Clone(excluded)
	}
	for i := range c.Services {
		if s := &c.Services[i]; s.Go != "" && s.Name != "" && len(s.Exec) == 0 {
			s.Exec = []string{"/bin/" + s.Name}
		}
	}
	c.Security.setDefaults()
	m := &c.Machine
	if m.MemoryMB == 0 {
		m.MemoryMB = 256
	}
	if m.CPUs == 0 {
		m.CPUs = 1
	}
	if m.Type == "" {
		m.Type = machine.PC
	}
	if m.NIC == "" {
		m.NIC = "e1000"
	}
}

// fail makes the error about the key of that path.
func (c *Config) fail(key, format string, args ...any) error {
	return &ConfigError{File: c.file, Line: c.pos.Line(key), Key: key, Err: fmt.Errorf(format, args...)}
}

// imageName is what makes a file name, an xl domain name and a QEMU name.
var imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

func (c *Config) validate() error {
	var errs []error
	fail := func(key, format string, args ...any) { errs = append(errs, c.fail(key, format, args...)) }

	if !imageName.MatchString(c.Image.Name) {
		fail("image.name", "%q: want letters, digits and . _ -, at most 63", c.Image.Name)
	}
	if k := c.Image.Compression; k != Zstd && k != XZ {
		fail("image.compression", "%q: want %s or %s", k, Zstd, XZ)
	}
	if strings.ContainsAny(c.Image.Cmdline, "\n\"'") {
		fail("image.cmdline", "%q: want one line without quotes", c.Image.Cmdline)
	}
	for i, name := range c.Drivers.Classes {
		if _, ok := classByName(name); !ok {
			fail(fmt.Sprintf("drivers.classes[%d]", i), "%q: no such class%s; classes are %s", name,
				suggest(name, classNames()), strings.Join(classNames(), ", "))
		}
	}
	errs = append(errs, c.validateKernel()...)
	errs = append(errs, c.validatePackages()...)
	errs = append(errs, c.validateUsers()...)
	errs = append(errs, c.validateOutputs()...)
	errs = append(errs, c.validateSecurity()...)
	errs = append(errs, c.validateUpdate()...)
	if c.Machine.MemoryMB < 64 {
		fail("machine.memory_mb", "%d: the kernel alone needs 64", c.Machine.MemoryMB)
	}
	if c.Machine.CPUs < 1 {
		fail("machine.cpus", "%d: want at least 1", c.Machine.CPUs)
	}
	if t := c.Machine.Type; t != machine.PC && t != machine.Q35 {
		fail("machine.type", "%q: want %s or %s", t, machine.PC, machine.Q35)
	}
	for i, address := range c.Machine.Hostdevs {
		if !hostAddress.MatchString(address) {
			fail(fmt.Sprintf("machine.hostdevs[%d]", i), "%q: want a PCI address with its domain, in lower case, such as 0000:03:10.0", address)
		}
	}
	if _, err := c.files(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.validateGuest()...)
	return errors.Join(errs...)
}

func (c *Config) validateKernel() []error {
	k := c.Kernel
	given := 0
	for _, s := range []string{k.Package, k.Deb, k.Vmlinuz} {
		if s != "" {
			given++
		}
	}
	var errs []error
	if given > 1 {
		errs = append(errs, c.fail("kernel", "want one of package, deb and vmlinuz"))
	}
	if (k.Vmlinuz == "") != (k.Modules == "") {
		errs = append(errs, c.fail("kernel", "vmlinuz and modules go together"))
	}
	return errs
}

// validateGuest checks what becomes the guest's own configuration by the
// guest's own rules, and says where in the description the fault lies.
func (c *Config) validateGuest() []error {
	g := c.guest(new(selection))
	g.SetDefaults()
	err := g.Validate()
	if err == nil {
		return nil
	}
	var errs []error
	for _, e := range joined(err) {
		var field *config.FieldError
		if !errors.As(e, &field) {
			errs = append(errs, &ConfigError{File: c.file, Err: e})
			continue
		}
		key := ourKey(field.Field)
		reason := field.Err
		if field.Value != "" {
			reason = fmt.Errorf("%q: %w", field.Value, field.Err)
		}
		errs = append(errs, &ConfigError{File: c.file, Line: c.pos.Line(key), Key: key, Err: reason})
	}
	return errs
}

// ourKey translates the path of a field of the guest's configuration.
func ourKey(field string) string {
	for _, r := range []struct{ guest, ours string }{
		{"roles[", "role["}, {"services[", "service["}, {"hostname", "image.hostname"}, {"shadow", "image.shadow"},
		{"authorized_keys", "image.authorized_keys"},
	} {
		if rest, ok := strings.CutPrefix(field, r.guest); ok {
			return strings.Replace(r.ours+rest, "].argv", "].exec", 1)
		}
	}
	return field
}

func joined(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		if _, single := err.(*config.FieldError); !single {
			return j.Unwrap()
		}
	}
	return []error{err}
}

// guest makes the configuration for the guest, with these modules. What has a default
// and is not given stays empty: it may depend on what is given at deploy time.
func (c *Config) guest(s *selection) *config.Config {
	g := &config.Config{
		Hostname:       c.Image.Hostname,
		AuthorizedKeys: c.Image.AuthorizedKeys,
		Modules:        s.boot,
		Prefetch:       s.prefetch,
		Drive:          s.drive,
		Disks:          s.disks,
		Roles:          slices.Clone(c.Roles),
		Log:            c.Log,
		NTP:            c.NTP,
		Shadow:         c.Image.Shadow,
		Status:         c.Status,
		Data:           c.Data,
		Update:         c.Update.guestUpdate(),
		Debug:          c.Image.Debug,
	}
	for i := range g.Roles { // defaults are filled in there, and not in the description
		g.Roles[i].VLANs = slices.Clone(g.Roles[i].VLANs)
	}
	for _, s := range c.Services {
		g.Services = append(g.Services, config.Service{
			Name: s.Name, Argv: s.Exec, Env: s.Env, Dir: s.Dir, Needs: s.Needs,
			Type: s.Type, Restart: s.Restart, Backoff: s.Backoff, StopTimeout: s.StopTimeout, Limits: s.Limits, LogBytes: s.LogBytes,
			User: s.user(), Capabilities: s.Capabilities, NoNewPrivileges: s.NoNewPrivileges,
			ReadOnlyRoot: s.ReadOnlyRoot, Writable: s.Writable,
		})
	}
	return g
}

// path makes a path of the description absolute.
func (c *Config) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, name)
}
