package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/client/api"
)

// errUsage marks combinations of flags that make no sense.
var errUsage = errors.New("flags do not fit")

// errTimeout is the end of --timeout.
var errTimeout = errors.New("it took longer than --timeout")

// errNoInstance is publish with neither a key nor a Sigstore.
var errNoInstance = errors.New("neither --key nor --signing-config is given")

const maxSmallFile = 1 << 20

// serverFlags say which server, and why it is believed.
type serverFlags struct {
	url, ca, pin, token string
}

func (s *serverFlags) add(c *cobra.Command) {
	s.flags(c)
	required(c, "server")
	c.MarkFlagsOneRequired("ca", "ca-sha256")
}

// flags alone are for commands that can do without a server; with one, client asks for the rest.
func (s *serverFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.url, "server", "", "https URL of the admin listener")
	c.Flags().StringVar(&s.ca, "ca", "", "the server's CA certificate, PEM `FILE`")
	c.Flags().StringVar(&s.pin, "ca-sha256", "", "SHA-256 of the server's CA certificate in `HEX`, as cordond prints it")
	c.Flags().StringVar(&s.token, "token-file", "", "`FILE` with the token")
	c.MarkFlagsMutuallyExclusive("ca", "ca-sha256")
}

func (s *serverFlags) client() (*api.Client, error) {
	if s.ca == "" && s.pin == "" {
		return nil, fmt.Errorf("%w: give --ca or --ca-sha256, so that the server can be believed", errUsage)
	}
	cfg := api.Config{URL: s.url}
	var err error
	if s.ca != "" {
		b, err := readSmall(s.ca)
		if err != nil {
			return nil, fmt.Errorf("cannot read CA certificate: %w", err)
		}
		cfg.CA = x509.NewCertPool()
		if !cfg.CA.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%w: %q holds no certificate", errUsage, s.ca)
		}
	} else if cfg.CASHA256, err = digest.Parse(s.pin); err != nil {
		return nil, fmt.Errorf("--ca-sha256: %w", err)
	}
	if cfg.Token, err = readToken(s.token); err != nil {
		return nil, err
	}
	c, err := api.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return c, nil
}

func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := readSmall(path)
	if err != nil {
		return "", fmt.Errorf("cannot read token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("%w: token file %q is empty", errUsage, path)
	}
	return token, nil
}

func readSmall(path string) ([]byte, error) { return readFile(path, maxSmallFile) }

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
		return nil, fmt.Errorf("%q is larger than %d bytes", path, limit)
	}
	return b, nil
}

// days is a flag such as 365d.
type days int

func (d *days) String() string { return strconv.Itoa(int(*d)) + "d" }

// Type implements pflag.Value.
func (d *days) Type() string { return "DAYS" }

func (d *days) Set(text string) error {
	n, err := strconv.Atoi(strings.TrimSuffix(text, "d"))
	if err != nil || !strings.HasSuffix(text, "d") || n < 1 || n > 3650 {
		return errors.New("want days, 1d to 3650d")
	}
	*d = days(n)
	return nil
}

func (d days) from(now time.Time) time.Time {
	return now.UTC().Add(time.Duration(d) * 24 * time.Hour).Truncate(time.Second)
}

func expiresFlag(c *cobra.Command) *days {
	d := days(365)
	c.Flags().Var(&d, "expires", "how long the metadata is valid")
	return &d
}

func dirFlag(c *cobra.Command) *string {
	dir := c.Flags().String("dir", "", "ceremony directory `DIR`")
	required(c, "dir")
	return dir
}
