package witness

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/cordon-ota/cordon/artifacts/tlog"
)

// CheckpointPath is where anybody may ask for the newest cosigned checkpoint: ?origin=ORIGIN.
const CheckpointPath = "/checkpoint"

// Server returns an HTTP server for the witness, with bounds on time and size. Report is told what a person should know:
// forks, and requests that could not be decided.
func (w *Witness) Server(report func(error)) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+tlog.AddCheckpointPath, func(rw http.ResponseWriter, r *http.Request) { w.add(rw, r, report) })
	mux.HandleFunc("GET "+CheckpointPath, func(rw http.ResponseWriter, r *http.Request) { w.checkpoint(rw, r, report) })
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}
}

func (w *Witness) add(rw http.ResponseWriter, r *http.Request, report func(error)) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, tlog.MaxRequestBytes))
	if err != nil {
		http.Error(rw, "cannot read the request", http.StatusBadRequest)
		return
	}
	line, err := w.Add(body)
	if err != nil {
		refuse(rw, err, report)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Write(line)
}

// refuse answers with the codes of C2SP tlog-witness.
func refuse(rw http.ResponseWriter, err error, report func(error)) {
	stale, isStale := errors.AsType[*StaleError](err)
	switch {
	case isStale:
		rw.Header().Set("Content-Type", tlog.SizeContentType)
		rw.WriteHeader(http.StatusConflict)
		io.WriteString(rw, strconv.FormatUint(stale.Size, 10)+"\n")
	case errors.Is(err, ErrFork):
		report(err)
		http.Error(rw, ErrFork.Error(), http.StatusConflict)
	case errors.Is(err, tlog.ErrRequest):
		http.Error(rw, err.Error(), http.StatusBadRequest)
	case errors.Is(err, ErrNotSigned):
		http.Error(rw, err.Error(), http.StatusForbidden)
	case errors.Is(err, ErrUnknownLog):
		http.Error(rw, err.Error(), http.StatusNotFound)
	case errors.Is(err, tlog.ErrProof):
		report(err)
		http.Error(rw, err.Error(), http.StatusUnprocessableEntity)
	default:
		report(err)
		http.Error(rw, "the witness cannot decide now", http.StatusInternalServerError)
	}
}

// checkpoint hands out what an auditor compares with: the newest checkpoint that this witness vouches for.
func (w *Witness) checkpoint(rw http.ResponseWriter, r *http.Request, report func(error)) {
	w.mu.Lock()
	c, err := w.Latest(r.URL.Query().Get("origin"))
	w.mu.Unlock()
	if err != nil {
		refuse(rw, err, report)
		return
	}
	if c.Raw == nil {
		http.Error(rw, "no checkpoint of this log was cosigned yet", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Write(c.Raw)
}
