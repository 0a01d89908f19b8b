// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

package apptests

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
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
	// check tells what of the output, or of what the server has, is not as it should be,
	// and otherwise how much was done.
	check func(p *pair, output string) (done string, err error)
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
		check: func(p *pair, _ string) (string, error) {
			return sameContent(p.atServer, "/srv/sent", p.atClient, "/srv/received")
		},
	},
	{
		name: "rsync over ssh to the guest", port: sshPort, connections: 1,
		prepare: func(t *testing.T, p *pair) { p.atClient.must(t, random) },
		client:  at("rsync --bwlimit 100 /srv/sent root@SERVER:/srv/received"),
		check: func(p *pair, _ string) (string, error) {
			return sameContent(p.atClient, "/srv/sent", p.atServer, "/srv/received")
		},
	},
}

// at puts the address of the server into a command.
func at(command string, args ...any) string {
	return fmt.Sprintf(strings.ReplaceAll(command, "SERVER", serverAddr.String()), args...)
}

// random makes a file that no compression makes shorter.
var random = fmt.Sprintf("mkdir -p /srv && head -c %dK /dev/urandom >/srv/sent", kilobytes)

func checkIperf3(_ *pair, output string) (string, error) {
	var report struct {
		Error string
		End   struct {
			Sent     struct{ Bytes int64 } `json:"sum_sent"`
			Received struct{ Bytes int64 } `json:"sum_received_bidir_reverse"`
		}
	}
	if err := json.Unmarshal([]byte(output), &report); err != nil {
		return "", fmt.Errorf("%w in %s", err, output)
	}
	if report.Error != "" || report.End.Sent.Bytes == 0 || report.End.Received.Bytes == 0 {
		return "", fmt.Errorf("iperf3 reports %+v", report)
	}
	return fmt.Sprintf("%d bytes sent, %d received", report.End.Sent.Bytes, report.End.Received.Bytes), nil
}

func checkWrk(_ *pair, output string) (string, error) {
	// wrk speaks of errors and of other answers than 2xx only if there are any.
	for _, complaint := range []string{"Socket errors", "Non-2xx"} {
		if strings.Contains(output, complaint) {
			return "", errors.New(output)
		}
	}
	text, err := number(output, `last answer after (\d+) s`)
	if err != nil {
		return "", err
	}
	last, err := strconv.Atoi(text)
	if err != nil {
		return "", err
	}
	if last < seconds/2 {
		return "", fmt.Errorf("no answer after %d of %d s:\n%s", last, seconds, output)
	}
	n, err := number(output, `(\d+) requests in`)
	return n + " requests", err
}

func checkRedis(p *pair, output string) (string, error) {
	counted := strings.Fields(output)
	if len(counted) != increments {
		return "", fmt.Errorf("%d answers, want %d", len(counted), increments)
	}
	for i, n := range counted {
		if n != fmt.Sprint(i+1) {
			return "", fmt.Errorf("the %d. increment was answered by %s", i+1, n)
		}
	}
	got, err := p.atServer.run("redis-cli get counter")
	if err != nil {
		return "", err
	}
	if got != fmt.Sprint(increments) {
		return "", fmt.Errorf("the server counts %s, the client %d", got, increments)
	}
	return got + " increments", nil
}

// sums are those of the balances of pgbench's tables, which every transaction
// changes by the same amount, and the number of transactions.
const sums = `/usr/lib/postgresql/15/bin/psql -h 127.0.0.1 -U postgres -At -F ' ' -c "select
	(select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
	(select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history),
	(select count(*) from pgbench_history)"`

func checkPgbench(p *pair, output string) (string, error) {
	failed, err := number(output, `number of failed transactions: (\d+)`)
	if err != nil {
		return "", err
	}
	done, err := number(output, `number of transactions actually processed: (\d+)`)
	if err != nil {
		return "", err
	}
	if failed != "0" {
		return "", fmt.Errorf("%s transactions failed:\n%s", failed, output)
	}
	out, err := p.atServer.run(sums)
	if err != nil {
		return "", err
	}
	got := strings.Fields(out)
	if len(got) != 5 {
		return "", fmt.Errorf("sums are %q", got)
	}
	if slices.ContainsFunc(got[1:4], func(sum string) bool { return sum != got[0] }) {
		return "", fmt.Errorf("balances of accounts, tellers, branches, history are %v", got[:4])
	}
	if got[4] != done {
		return "", fmt.Errorf("the server has %s transactions, the client %s", got[4], done)
	}
	return done + " transactions", nil
}

// number returns what is in the parentheses of a pattern.
func number(output, pattern string) (string, error) {
	m := regexp.MustCompile(pattern).FindStringSubmatch(output)
	if m == nil || m[1] == "" {
		return "", fmt.Errorf("no %q in %s", pattern, output)
	}
	return m[1], nil
}

// sameContent checks that a file has arrived as it was sent.
func sameContent(from *shell, sent string, to *shell, received string) (string, error) {
	want, err := from.run("sha256sum <" + sent)
	if err != nil {
		return "", err
	}
	got, err := to.run("sha256sum <" + received)
	if err != nil {
		return "", err
	}
	if got != want {
		return "", fmt.Errorf("SHA-256 of %s is %s, of %s %s", sent, want, received, got)
	}
	return to.run("wc -c " + received)
}

// TestWhatClientsSay holds what is read from the words of clients: a complaint is seen.
func TestWhatClientsSay(t *testing.T) {
	const wrk = "  7573 requests in 2.00m, 6.21MB read\n"
	for _, tc := range []struct {
		rule   string
		check  func(*pair, string) (string, error)
		output string
		ok     bool
	}{
		{"wrk has nothing to complain of", checkWrk, wrk + "last answer after 119 s\n", true},
		{"wrk has lost a connection", checkWrk, wrk + "  Socket errors: connect 0, read 1, write 0, timeout 0\nlast answer after 119 s\n", false},
		{"wrk was refused", checkWrk, wrk + "  Non-2xx or 3xx responses: 3\nlast answer after 119 s\n", false},
		{"wrk waits without end, and does not call that an error", checkWrk, wrk + "last answer after 12 s\n", false},
		{"wrk was not asked when its last answer came", checkWrk, wrk, false},
		{"iperf3 has sent and received", checkIperf3,
			`{"end": {"sum_sent": {"bytes": 5}, "sum_received_bidir_reverse": {"bytes": 7}}}`, true},
		{"iperf3 has received nothing", checkIperf3,
			`{"end": {"sum_sent": {"bytes": 5}, "sum_received_bidir_reverse": {"bytes": 0}}}`, false},
		{"iperf3 reports an error", checkIperf3,
			`{"end": {"sum_sent": {"bytes": 5}, "sum_received_bidir_reverse": {"bytes": 7}}, "error": "control socket has closed"}`, false},
		{"iperf3 was ended amid its report", checkIperf3, `{"end": {`, false},
		{"redis answers less often than it was asked", checkRedis, "1\n2\n3\n", false},
		{"redis has forgotten an increment", checkRedis, counted(func(n int) int { return min(n, increments-1) }), false},
		{"pgbench has lost a transaction", checkPgbench,
			"number of transactions actually processed: 9/10\nnumber of failed transactions: 1 (10.000%)\n", false},
		{"pgbench has not come to its report", checkPgbench, "starting vacuum...end.\n", false},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			if done, err := tc.check(nil, tc.output); (err == nil) != tc.ok {
				t.Errorf("%q, %v", done, err)
			}
		})
	}
}

// counted is what redis-cli prints, with n for the n-th increment as answer says.
func counted(answer func(n int) int) string {
	var b strings.Builder
	for n := range increments {
		fmt.Fprintln(&b, answer(n+1))
	}
	return b.String()
}
