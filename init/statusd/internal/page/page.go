// Copyright 2026 the umbra Authors. All rights reserved.
// Use of this source code is governed by a BSD-style
// license that can be found in the LICENSE file.

// Package page serves the guest's state over HTTP, to be read only: a page for people,
// and metrics for Prometheus.
//
// It knows HTML and HTTP. It must never know where the state comes from, and believes
// none of it: names, messages and lines are the words of programs, hosts and devices.
package page

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/umbra-vm/umbra/init/statusd/internal/state"
)

// A Source has the state; [state.Reader] is one.
type Source interface {
	Read(ctx context.Context) (*state.State, error)
}

//go:embed page.html style.css
var files embed.FS

var page = template.Must(template.ParseFS(files, "page.html"))

// policy lets a browser load nothing but the page's own style: no script, whatever a
// program may write into its log, and no frame around it.
const policy = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// The bounds in seconds of how often a page that was asked to does load itself again.
const (
	minEvery = 2
	maxEvery = 3600
)

// New returns the handler of all there is: the page at /, its style, and /metrics.
func New(source Source, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		s, err := source.Read(r.Context())
		v := newView(s, err)
		v.Every = every(r)
		var body bytes.Buffer
		if err := page.Execute(&body, v); err != nil {
			log.Error("page", "err", err)
			http.Error(w, "the page could not be made", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = body.WriteTo(w) // a browser that is gone
	})
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, files, "style.css")
	})
	mux.Handle("GET /metrics", metrics(source, log))
	return guarded(mux)
}

// guarded sets what browsers are to know of every answer.
func guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy": policy,
			"X-Content-Type-Options":  "nosniff",
			"Referrer-Policy":         "no-referrer",
			"Cache-Control":           "no-store",
		} {
			w.Header().Set(name, value)
		}
		h.ServeHTTP(w, r)
	})
}

// every is how often the page is to load itself again, in seconds; 0 for never.
func every(r *http.Request) int {
	n, err := strconv.Atoi(r.URL.Query().Get("every"))
	if err != nil || n < minEvery {
		return 0
	}
	return min(n, maxEvery)
}
