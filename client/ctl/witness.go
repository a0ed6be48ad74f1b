package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts/tlog"
	"github.com/cordon-ota/cordon/client/ctl/witness"
)

func (a *app) witnessCommand() *cobra.Command {
	return group("witness", "Be a witness for audit logs: vouch that they never show two histories", a.witnessKeygen(), a.witnessRun())
}

func (a *app) witnessKeygen() *cobra.Command {
	c := &cobra.Command{Use: "keygen", Short: "Make a witness's key, and print what goes into the log policy", Args: cobra.NoArgs}
	name := c.Flags().String("name", "", "`NAME` of the witness, such as witness.example.org")
	file := c.Flags().String("key-file", "", "new `FILE` for the secret")
	required(c, "name", "key-file")
	c.RunE = a.run("make a key", func(context.Context, []string) error {
		secret, public, err := witness.NewKey(*name)
		if err != nil {
			return err
		}
		if err := writeNew(*file, []byte(secret+"\n"), 0o600, false); err != nil {
			return fmt.Errorf("cannot write key: %w", err)
		}
		return a.print(map[string]string{"name": *name, "key": public, "file": *file}, func(w io.Writer) error {
			fmt.Fprintln(w, public)
			return nil
		})
	})
	return c
}

func (a *app) witnessRun() *cobra.Command {
	c := &cobra.Command{Use: "run", Short: "Serve C2SP tlog-witness until it is ended", Args: cobra.NoArgs}
	keys := c.Flags().StringArray("log-key", nil, "verifier key `VKEY` of a log; once for each log")
	origins := c.Flags().StringArray("origin", nil, "name of the log of each --log-key, checked against the key")
	keyFile := c.Flags().String("key-file", "", "`FILE` of 'cordonctl witness keygen'")
	state := c.Flags().String("state", "", "`DIR` for what was cosigned; never lose it and never put an older copy back")
	listen := c.Flags().String("listen", "", "`ADDRESS` to listen on, such as :8443")
	cert := c.Flags().String("tls-cert", "", "PEM `FILE` with the certificate chain; without it the witness speaks plain HTTP")
	key := c.Flags().String("tls-key", "", "PEM `FILE` with its key")
	required(c, "log-key", "key-file", "state", "listen")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	c.RunE = a.run("run the witness", func(ctx context.Context, _ []string) error {
		if err := sameOrigins(*keys, *origins); err != nil {
			return err
		}
		secret, err := readFile(*keyFile, maxSmallFile)
		if err != nil {
			return fmt.Errorf("cannot read key: %w", err)
		}
		w, err := witness.Open(witness.Config{Dir: *state, Key: string(secret), LogKeys: *keys})
		if err != nil {
			return err
		}
		err = serveWitness(ctx, w, *listen, *cert, *key)
		return errors.Join(err, w.Close())
	})
	return c
}

// sameOrigins keeps a key from being given for another log than the operator means.
func sameOrigins(keys, origins []string) error {
	if len(origins) == 0 {
		return nil
	}
	if len(origins) != len(keys) {
		return fmt.Errorf("%w: %d --origin for %d --log-key", errUsage, len(origins), len(keys))
	}
	for i, key := range keys {
		v, err := tlog.LogVerifier(key)
		if err != nil {
			return err
		}
		if v.Name() != origins[i] {
			return fmt.Errorf("%w: --origin is %q, the key is of log %q", errUsage, origins[i], v.Name())
		}
	}
	return nil
}

func serveWitness(ctx context.Context, w *witness.Witness, address, certFile, keyFile string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	server := w.Server(func(err error) { note("%s: %v", time.Now().UTC().Format(time.RFC3339), err) })
	scheme := "http"
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return errors.Join(fmt.Errorf("%w: --tls-cert and --tls-key: %w", errUsage, err), listener.Close())
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})
		scheme = "https"
	}
	note("witness %s listens on %s://%s", w.Name(), scheme, listener.Addr())
	for _, origin := range w.Origins() {
		if last, err := w.Latest(origin); err == nil {
			note("log %s: cosigned up to size %d", origin, last.Size)
		}
	}
	if forks, err := w.Forks(); err == nil && len(forks) > 0 {
		note("%d proofs that a log signed two histories lie in the state; tell everybody who relies on it", len(forks))
	}
	stop := context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(drain); err != nil {
			fmt.Fprintf(os.Stderr, "cordonctl: %v\n", err)
		}
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve: %w", err)
	}
	return nil
}
