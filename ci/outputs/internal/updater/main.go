// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Updater is a service that asks a host over HTTP what to do with the guest: write the
// version of the image that the host has and boot it, fail, or have the kernel panic.
//
//	updater URL FILE
//
// FILE outlives the boot; each start adds a line. The program GETs
// URL/order?slot=SLOT&boot=ID&starts=LINES, and knows these answers: "wait", "update SHA256",
// whose image is URL/image, "exit" and "panic".
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"
)

const pause = time.Second

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: updater URL FILE")
		os.Exit(2)
	}
	host := os.Args[1]
	starts, err := count(os.Args[2])
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	order, err := question(host, starts)
	for ; ; time.Sleep(pause) {
		words, e := ask(order)
		switch {
		case err != nil:
			fmt.Println("error:", err)
			os.Exit(1)
		case e != nil:
			fmt.Println("no order:", e)
		case words[0] == "update" && len(words) == 2:
			if err := update(host+"/image", words[1]); err != nil {
				fmt.Println("not updated:", err)
			}
		case words[0] == "exit":
			os.Exit(1)
		case words[0] == "panic":
			fmt.Println("panic:", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
		}
	}
}

// count adds a line to the file and returns how many there are, all of them on the disk.
func count(file string) (int, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.WriteString("\n"); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(file)
	return len(text), err
}

// question is the URL of the order to this boot of this slot.
func question(host string, starts int) (string, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	v := url.Values{"boot": {strings.TrimSpace(string(id))}, "starts": {fmt.Sprint(starts)}}
	for word := range strings.FieldsSeq(string(cmdline)) {
		if slot, ok := strings.CutPrefix(word, "umbra.slot="); ok {
			v.Set("slot", slot)
		}
	}
	return host + "/order?" + v.Encode(), nil
}

func ask(order string) ([]string, error) {
	client := http.Client{Timeout: 10 * time.Second} // a move ends connections of this kind of network
	r, err := client.Get(order)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if words := strings.Fields(string(text)); err != nil || len(words) > 0 {
		return words, err
	}
	return []string{"wait"}, nil
}

// update hands the image on as it comes: it has no room in memory.
func update(image, sum string) error {
	r, err := http.Get(image)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	cmd := exec.Command("/bin/shadowctl", "update", "-", sum)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.Body, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	return exec.Command("/sbin/reboot").Run()
}
