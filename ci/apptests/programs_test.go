// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apptests

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// seconds is how long clients are at work, at least: three moves have to fit in.
const seconds = 120

const sshPort = 22

// increments is how often redis-cli counts in that time, with a pause of 100 ms.
const increments = seconds * 10

// kilobytes is what rsync, held back to 100 KiB/s, sends in that time.
const kilobytes = seconds * 100

// program is a service of the server with a client of its own, both unmodified.
type program struct {
	name        string
	port        uint16
	connections int    // that the client has open while it works
	quiet       int    // of these, on which nothing is said then
	ready       string // succeeds at the client when the service is there
	prepare     func(t *testing.T, p *pair)
	client      string // ends with status 0 if it has nothing to complain of
	check       func(t *testing.T, p *pair, output string)
}

var programs = []program{
	{
		name: "iperf3 in both directions", port: 5201, connections: 3, quiet: 1, // its control connection
		client: at("iperf3 --client SERVER --bidir --json --bitrate 4M --time %d", seconds),
		check:  checkIperf3,
	},
	{
		name: "nginx and wrk with keep-alive", port: 80, connections: 4,
		client: at("wrk --threads 1 --connections 4 --duration %d --timeout 60 --script /etc/pace.lua http://SERVER/", seconds),
		check:  checkWrk,
	},
	{
		name: "redis and a client that counts", port: 6379, connections: 1,
		ready:  at("test \"$(redis-cli -h SERVER ping)\" = PONG"),
		client: at("redis-cli -h SERVER -r %d -i 0.1 incr counter", increments),
		check:  checkRedis,
	},
	{
		name: "PostgreSQL and pgbench", port: 5432, connections: 2,
		ready: at("/usr/lib/postgresql/15/bin/pg_isready -h SERVER"),
		prepare: func(t *testing.T, p *pair) {
			p.atClient.must(t, at("/usr/lib/postgresql/15/bin/pgbench -h SERVER -U postgres --initialize --quiet postgres"))
		},
		client: at("/usr/lib/postgresql/15/bin/pgbench -h SERVER -U postgres --client 2 --rate 20 --time %d postgres", seconds),
		check:  checkPgbench,
	},
	{
		name: "rsync over ssh from the guest", port: sshPort, connections: 1,
		prepare: func(t *testing.T, p *pair) { p.atServer.must(t, random) },
		client:  at("rsync --bwlimit 100 root@SERVER:/srv/sent /srv/received"),
		check: func(t *testing.T, p *pair, _ string) {
			sameContent(t, p.atServer, "/srv/sent", p.atClient, "/srv/received")
		},
	},
	{
		name: "rsync over ssh to the guest", port: sshPort, connections: 1,
		prepare: func(t *testing.T, p *pair) { p.atClient.must(t, random) },
		client:  at("rsync --bwlimit 100 /srv/sent root@SERVER:/srv/received"),
		check: func(t *testing.T, p *pair, _ string) {
			sameContent(t, p.atClient, "/srv/sent", p.atServer, "/srv/received")
		},
	},
}

// at puts the address of the server into a command.
func at(command string, args ...any) string {
	return fmt.Sprintf(strings.ReplaceAll(command, "SERVER", serverAddr.String()), args...)
}

// random makes a file that no compression makes shorter.
var random = fmt.Sprintf("mkdir -p /srv && head -c %dK /dev/urandom >/srv/sent", kilobytes)

func checkIperf3(t *testing.T, _ *pair, output string) {
	var report struct {
		Error string
		End   struct {
			Sent     struct{ Bytes int64 } `json:"sum_sent"`
			Received struct{ Bytes int64 } `json:"sum_received_bidir_reverse"`
		}
	}
	if err := json.Unmarshal([]byte(output), &report); err != nil {
		t.Fatalf("%v in %s", err, output)
	}
	if report.Error != "" || report.End.Sent.Bytes == 0 || report.End.Received.Bytes == 0 {
		t.Errorf("iperf3 reports %+v", report)
	}
	t.Logf("%d bytes sent, %d received", report.End.Sent.Bytes, report.End.Received.Bytes)
}

func checkWrk(t *testing.T, _ *pair, output string) {
	// wrk speaks of errors and of other answers than 2xx only if there are any.
	for _, complaint := range []string{"Socket errors", "Non-2xx"} {
		if strings.Contains(output, complaint) {
			t.Error(output)
		}
	}
	t.Log(number(t, output, `(\d+) requests in`), "requests")
}

func checkRedis(t *testing.T, p *pair, output string) {
	counted := strings.Fields(output)
	if len(counted) != increments {
		t.Errorf("%d answers, want %d", len(counted), increments)
	}
	for i, n := range counted {
		if n != fmt.Sprint(i+1) {
			t.Fatalf("the %d. increment was answered by %s", i+1, n)
		}
	}
	if got := p.atServer.must(t, "redis-cli get counter"); got != fmt.Sprint(increments) {
		t.Errorf("the server counts %s, the client %d", got, increments)
	}
}

// sums are those of the balances of pgbench's tables, which every transaction
// changes by the same amount, and the number of transactions.
const sums = `/usr/lib/postgresql/15/bin/psql -h 127.0.0.1 -U postgres -At -F ' ' -c "select
	(select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
	(select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history),
	(select count(*) from pgbench_history)"`

func checkPgbench(t *testing.T, p *pair, output string) {
	if n := number(t, output, `number of failed transactions: (\d+)`); n != "0" {
		t.Errorf("%s transactions failed:\n%s", n, output)
	}
	done := number(t, output, `number of transactions actually processed: (\d+)`)
	got := strings.Fields(p.atServer.must(t, sums))
	if len(got) != 5 {
		t.Fatalf("sums are %q", got)
	}
	for _, sum := range got[1:4] {
		if sum != got[0] {
			t.Errorf("balances of accounts, tellers, branches, history are %v", got[:4])
			break
		}
	}
	if got[4] != done {
		t.Errorf("the server has %s transactions, the client %s", got[4], done)
	}
	t.Log(done, "transactions")
}

// number returns what is in the parentheses of a pattern.
func number(t *testing.T, output, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(output)
	if m == nil || m[1] == "" {
		t.Fatalf("no %q in %s", pattern, output)
	}
	return m[1]
}

// sameContent checks that a file has arrived as it was sent.
func sameContent(t *testing.T, from *shell, sent string, to *shell, received string) {
	t.Helper()
	want, _, _ := strings.Cut(from.must(t, "sha256sum "+sent), " ")
	got, _, _ := strings.Cut(to.must(t, "sha256sum "+received), " ")
	if got != want || len(want) != 64 {
		t.Errorf("SHA-256 of %s is %s, of %s %s", sent, want, received, got)
	}
	t.Log(to.must(t, "wc -c "+received))
}
