package app

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/cordon-ota/cordon/server/config"
	"github.com/cordon-ota/cordon/server/segment"
	"github.com/cordon-ota/cordon/server/segment/nft"
	"github.com/cordon-ota/cordon/server/segment/radius"
	"github.com/cordon-ota/cordon/server/segment/webhook"
)

// checkConfig finds what would keep a server with this configuration from starting: in the files that it names, and in the
// enforcement points, which check their own parts. Nothing is opened for writing, and no network is touched.
func checkConfig(cfg config.Config) error {
	a := &App{cfg: cfg, opt: Options{Log: slog.New(slog.DiscardHandler), Now: time.Now}}
	if _, err := a.admission(); err != nil {
		return err
	}
	if _, err := readRoots("audit.witness_ca_file", cfg.Audit.WitnessCAFile); err != nil {
		return err
	}
	if err := checkS3(cfg); err != nil {
		return err
	}
	for _, c := range cfg.Segment.NFTables {
		if _, err := a.newNFTables(c); err != nil {
			return err
		}
	}
	for _, c := range cfg.Segment.RADIUS {
		if _, err := a.newRADIUS(c); err != nil {
			return err
		}
	}
	for _, c := range cfg.Segment.Webhook {
		p, err := a.newWebhook(c, make(ed25519.PrivateKey, ed25519.PrivateKeySize))
		if err != nil {
			return err
		}
		_ = p.Close() // it has no connection
	}
	return nil
}

func checkS3(cfg config.Config) error {
	if cfg.S3 == (config.S3{}) {
		return nil
	}
	if _, err := readRoots("s3.ca_file", cfg.S3.CAFile); err != nil {
		return err
	}
	if _, err := readRoots("presign.ca_file", cfg.Presign.CAFile); err != nil {
		return err
	}
	for key, file := range map[string]string{"s3.access_key_file": cfg.S3.AccessKeyFile, "s3.secret_key_file": cfg.S3.SecretKeyFile} {
		if _, err := os.ReadFile(file); err != nil {
			return fmt.Errorf("cannot read %s: %w", key, err)
		}
	}
	return nil
}

func (a *App) newNFTables(c config.NFTables) (*nft.Point, error) {
	cfg := nft.Config{
		Name: c.Name, Table: c.Table, Family: c.Family, Hooks: c.Hooks, Priority: c.Priority, Namespace: c.Namespace,
		Timeout: a.cfg.Segment.Timeout.Std(), Now: a.opt.Now,
	}
	for _, text := range c.Recovery {
		service, err := nft.ParseService(text)
		if err != nil {
			return nil, fmt.Errorf("%w: segment.nftables %q: recovery: %w", config.ErrConfig, c.Name, err)
		}
		cfg.Recovery = append(cfg.Recovery, service)
	}
	p, err := nft.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: segment.nftables %q: %w", config.ErrConfig, c.Name, err)
	}
	return p, nil
}

func (a *App) newRADIUS(c config.RADIUS) (*radius.Point, error) {
	cfg := radius.Config{
		Name: c.Name, Server: c.Server, SecretFile: c.SecretFile, Mode: c.Mode, NASIdentifier: c.NASIdentifier, MACFormat: c.MACFormat,
		Restricted: radius.Attributes{FilterID: c.RestrictedFilter, VLAN: c.RestrictedVLAN},
		Production: radius.Attributes{FilterID: c.ProductionFilter, VLAN: c.ProductionVLAN},
		SendClass:  c.SendClass, StrictReplies: c.StrictReplies, Timeout: c.Timeout.Std(), Tries: c.Tries, Rate: c.Rate,
		AccountingListen: c.AccountingListen, AccountingSecretFile: c.AccountingSecretFile, ClockSkew: c.ClockSkew.Std(),
		Now: a.opt.Now, Log: a.opt.Log,
	}
	if c.NASAddress != "" {
		address, err := netip.ParseAddr(c.NASAddress)
		if err != nil {
			return nil, fmt.Errorf("%w: segment.radius %q: nas_address: %w", config.ErrConfig, c.Name, err)
		}
		cfg.NASAddress = address
	}
	for _, text := range c.AccountingClients {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%w: segment.radius %q: accounting_clients: %w", config.ErrConfig, c.Name, err)
		}
		cfg.AccountingClients = append(cfg.AccountingClients, prefix)
	}
	p, err := radius.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: segment.radius %q: %w", config.ErrConfig, c.Name, err)
	}
	return p, nil
}

func (a *App) newWebhook(c config.Webhook, key ed25519.PrivateKey) (*webhook.Point, error) {
	roots, err := readRoots("ca_file", c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("segment.webhook %q: %w", c.Name, err)
	}
	p, err := webhook.New(webhook.Config{Name: c.Name, URL: c.URL, Selector: segment.Selector(c.Finds), Roots: roots, Key: key, Now: a.opt.Now})
	if err != nil {
		return nil, fmt.Errorf("%w: segment.webhook: %w", config.ErrConfig, err)
	}
	return p, nil
}
