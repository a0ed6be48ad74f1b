package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/artifacts/tufrepo"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
)

// provisioned is what provision says about the bundle that it wrote: what people compare with the holders.
type provisioned struct {
	File         string        `json:"file"`
	Server       string        `json:"server"`
	TrustDomain  string        `json:"trust_domain"`
	ServerCA     digest.SHA256 `json:"server_ca_sha256"`
	ImageRoot    rootView      `json:"image_root"`
	DirectorRoot rootView      `json:"director_root"`
	Downloads    []string      `json:"downloads,omitempty"` // other servers that devices may fetch firmware bytes from
}

type rootView struct {
	Version   int64           `json:"version"`
	SHA256    digest.SHA256   `json:"sha256"`
	Threshold int             `json:"threshold"`
	Keys      []digest.SHA256 `json:"fingerprints"` // of the root role, as cordon-sign shows them
	Expires   time.Time       `json:"expires"`
}

func (a *app) provisionCommand() *cobra.Command {
	c := &cobra.Command{Use: "provision", Short: "Write the trust bundle that devices and auditors start from", Args: cobra.NoArgs}
	out := c.Flags().String("out", "", "`FILE` to write")
	force := c.Flags().Bool("force", false, "replace the file if it is there")
	required(c, "out")
	c.RunE = a.run("provision", func(ctx context.Context, _ []string) error {
		if err := a.server.fill(); err != nil {
			return err
		}
		client, err := a.server.connect()
		if err != nil {
			return err
		}
		trust, view, err := a.bundle(ctx, client)
		if err != nil {
			return err
		}
		b, err := json.Marshal(trust, json.Deterministic(true), jsontext.WithIndent("  "))
		if err != nil {
			return fmt.Errorf("cannot encode trust bundle: %w", err)
		}
		if err := writeNew(*out, append(b, '\n'), 0o644, *force); err != nil {
			return fmt.Errorf("cannot write trust bundle: %w", err)
		}
		view.File = *out
		return a.print(view, view.show)
	})
	return c
}

// bundle reads everything from the server that the flags prove, and checks that each root follows from the first.
func (a *app) bundle(ctx context.Context, client *api.Client) (wire.Trust, provisioned, error) {
	status, err := client.Status(ctx)
	if err != nil {
		return wire.Trust{}, provisioned{}, err
	}
	if !status.Initialised || status.ImageRoot < 1 || status.DirectorRoot < 1 {
		return wire.Trust{}, provisioned{}, errUninitialised
	}
	trust := wire.Trust{Version: wire.TrustVersion, Server: status.DeviceURL, TrustDomain: status.TrustDomain, Downloads: status.Downloads}
	var sum digest.SHA256
	if trust.ServerCA, sum, err = a.serverCA(status); err != nil {
		return wire.Trust{}, provisioned{}, err
	}
	if trust.ImageRoot, err = newestRoot(ctx, status.ImageRoot, client.ImageRoot); err != nil {
		return wire.Trust{}, provisioned{}, fmt.Errorf("image root: %w", err)
	}
	if trust.DirectorRoot, err = newestRoot(ctx, status.DirectorRoot, client.DirectorRoot); err != nil {
		return wire.Trust{}, provisioned{}, fmt.Errorf("director root: %w", err)
	}
	encoded, err := json.Marshal(trust)
	if err != nil {
		return wire.Trust{}, provisioned{}, fmt.Errorf("cannot encode trust bundle: %w", err)
	}
	if _, err := wire.DecodeTrust(encoded); err != nil {
		return wire.Trust{}, provisioned{}, err
	}
	view := provisioned{Server: trust.Server, TrustDomain: trust.TrustDomain, ServerCA: sum}
	for _, d := range trust.Downloads {
		view.Downloads = append(view.Downloads, d.Host)
	}
	if view.ImageRoot, err = viewRoot(trust.ImageRoot); err != nil {
		return wire.Trust{}, provisioned{}, err
	}
	view.DirectorRoot, err = viewRoot(trust.DirectorRoot)
	return trust, view, err
}

// serverCA returns the CA that the flags prove, not the one that the server names, unless it is the same.
func (a *app) serverCA(status api.Status) (string, digest.SHA256, error) {
	if a.server.ca != "" {
		b, err := readFile(a.server.ca, maxSmallFile)
		if err != nil {
			return "", digest.SHA256{}, err
		}
		return string(b), certificateSum(b), nil
	}
	sum := certificateSum([]byte(status.ServerCA))
	if sum.String() != strings.ToLower(a.server.pin) {
		return "", digest.SHA256{}, fmt.Errorf("%w: it names a CA with SHA-256 %s", api.ErrCA, sum)
	}
	return status.ServerCA, sum, nil
}

// certificateSum is the SHA-256 of the first certificate of a PEM file.
func certificateSum(pemBytes []byte) digest.SHA256 {
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return digest.SHA256{}
	}
	return digest.Of(block.Bytes)
}

// newestRoot follows the chain from version 1 and returns the newest root.
func newestRoot(ctx context.Context, newest int64, get func(ctx context.Context, version int64) ([]byte, error)) ([]byte, error) {
	first, err := get(ctx, 1)
	if err != nil {
		return nil, err
	}
	chain, err := tufrepo.NewImage(first, time.Now())
	if err != nil {
		return nil, err
	}
	for v := int64(2); v <= newest; v++ {
		doc, err := get(ctx, v)
		if err != nil {
			return nil, err
		}
		if err := chain.UpdateRoot(doc); err != nil {
			return nil, err
		}
	}
	return chain.Root(), nil
}

func viewRoot(doc []byte) (rootView, error) {
	spec, err := tufrepo.ParseRoot(doc)
	if err != nil {
		return rootView{}, err
	}
	out := rootView{Version: spec.Version, SHA256: digest.Of(doc), Threshold: spec.Threshold[tufrepo.RoleRoot], Expires: spec.Expires}
	for _, key := range spec.Keys[tufrepo.RoleRoot] {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return rootView{}, fmt.Errorf("cannot encode key of the root: %w", err)
		}
		out.Keys = append(out.Keys, digest.Of(der))
	}
	return out, nil
}

func (p provisioned) show(w io.Writer) error {
	facts(w, "trust bundle", p.File, "server", p.Server, "trust domain", p.TrustDomain, "server CA sha256", p.ServerCA.String(), "downloads also from", strings.Join(p.Downloads, " "))
	for _, r := range []struct {
		name string
		rootView
	}{{"image root", p.ImageRoot}, {"director root", p.DirectorRoot}} {
		fmt.Fprintf(w, "%s %d, expires %s, sha256 %s\n", r.name, r.Version, moment(r.Expires), r.SHA256)
		fmt.Fprintf(w, "  %d of these keys sign it:\n", r.Threshold)
		for _, fingerprint := range r.Keys {
			fmt.Fprintf(w, "    %s\n", fingerprint)
		}
	}
	note("compare the keys with the holders' before you build the file into an image: each holder runs cordon-sign keys show --key THEIRS.pub.pem")
	return nil
}
