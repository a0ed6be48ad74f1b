package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
)

// errUsage marks flags and arguments that make no sense, errConfig a configuration file that cannot be used.
var (
	errUsage  = errors.New("flags or arguments do not fit")
	errConfig = errors.New("configuration cannot be used")
)

const maxSmallFile = 4 << 20

// config is the file cordon/ctl.toml in the user's configuration directory (on Linux $XDG_CONFIG_HOME or ~/.config). It
// spares the flags of the same meaning; a flag wins. All keys are optional.
type config struct {
	// Server: https URL of the admin listener, as in "https://updates.example:8444".
	Server string `toml:"server"`
	// CA: PEM file with the server's CA certificate; cordond writes it to its data directory.
	CA string `toml:"ca"`
	// Token: file with your token, as --token-out wrote it.
	Token string `toml:"token"`
}

// serverFlags say which server, and why it is believed.
type serverFlags struct {
	url, ca, pin, token string
}

func (s *serverFlags) add(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&s.url, "server", "", "https `URL` of the admin listener")
	f.StringVar(&s.ca, "ca", "", "the server's CA certificate, PEM `FILE`")
	f.StringVar(&s.pin, "ca-sha256", "", "instead of --ca: SHA-256 of the server's CA certificate in `HEX`")
	f.StringVar(&s.token, "token-file", "", "`FILE` with your token")
}

// fill takes from the configuration file what no flag says.
func (s *serverFlags) fill() error {
	c, err := readConfig()
	if err != nil {
		return err
	}
	if s.url == "" {
		s.url = c.Server
	}
	if s.ca == "" && s.pin == "" {
		s.ca = c.CA
	}
	if s.token == "" {
		s.token = c.Token
	}
	switch {
	case s.ca != "" && s.pin != "":
		return fmt.Errorf("%w: --ca and --ca-sha256 exclude each other", errUsage)
	case s.url == "":
		return fmt.Errorf("%w: no server; give --server, or set it in %s", errUsage, configName())
	case s.ca == "" && s.pin == "":
		return fmt.Errorf("%w: no CA certificate; give --ca or --ca-sha256, or set ca in %s", errUsage, configName())
	}
	return nil
}

// configName is how messages name the file; it may not be there.
func configName() string {
	path, err := configPath()
	if err != nil {
		return "cordon/ctl.toml"
	}
	return path
}

func configPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "cordon", "ctl.toml"), nil
}

func readConfig() (config, error) {
	path, err := configPath()
	if err != nil {
		return config{}, nil // no home: flags alone
	}
	b, err := readFile(path, maxSmallFile)
	if errors.Is(err, fs.ErrNotExist) {
		return config{}, nil
	}
	if err != nil {
		return config{}, fmt.Errorf("%w: %w", errConfig, err)
	}
	return decodeConfig(path, b)
}

func decodeConfig(path string, b []byte) (config, error) {
	var c config
	d := toml.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		text := err.Error()
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			text = "unknown key " + strings.Join(strict.Errors[0].Key(), ".")
		}
		return config{}, fmt.Errorf("%w: %s: %s", errConfig, path, text)
	}
	return c, nil
}

// client connects as the person whose token it is.
func (s *serverFlags) client() (*api.Client, error) {
	if err := s.fill(); err != nil {
		return nil, err
	}
	if s.token == "" {
		return nil, fmt.Errorf("%w: no token; give --token-file, or set token in %s", errUsage, configName())
	}
	return s.connect()
}

// connect makes a client, without a token when none is given.
func (s *serverFlags) connect() (*api.Client, error) {
	cfg := api.Config{URL: s.url}
	var err error
	if s.ca != "" {
		b, err := readFile(s.ca, maxSmallFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read CA certificate: %w", err)
		}
		cfg.CA = x509.NewCertPool()
		if !cfg.CA.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%w: %q holds no certificate", errUsage, s.ca)
		}
	} else if cfg.CASHA256, err = digest.Parse(s.pin); err != nil {
		return nil, fmt.Errorf("%w: --ca-sha256: %w", errUsage, err)
	}
	if s.token != "" {
		b, err := readFile(s.token, maxSmallFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read token: %w", err)
		}
		if cfg.Token = strings.TrimSpace(string(b)); cfg.Token == "" {
			return nil, fmt.Errorf("%w: token file %q is empty", errUsage, s.token)
		}
	}
	c, err := api.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return c, nil
}

// errLarge means that a file is larger than any of its kind.
var errLarge = errors.New("file is too large")

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %q is larger than %d bytes", errLarge, path, limit)
	}
	return b, nil
}

// errExists is returned instead of overwriting.
var errExists = errors.New("file is there already")

// createNew makes a file that nobody else reads; it never overwrites one.
func createNew(path string, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %q", errExists, path)
	}
	return f, err
}

// writeNew writes a whole file, or nothing: a new one, or with force in place of an old one.
func writeNew(path string, data []byte, mode fs.FileMode, force bool) error {
	if _, err := os.Lstat(path); err == nil && !force {
		return fmt.Errorf("%w: %q", errExists, path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if force {
		return os.Rename(f.Name(), path)
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it never replaces
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %q", errExists, path)
		}
		return os.Rename(f.Name(), path) // a file system without links
	}
	return nil
}
