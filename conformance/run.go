package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/suite"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

func runCommand() *cobra.Command {
	var dirs []string
	var ask serverFlags
	c := &cobra.Command{
		Use:   "run [--vectors DIR [-- COMMAND ARGS] | --server URL]",
		Short: "Ask a verifier about negative evidence: cordon's own, one that reads questions on its standard input, or a server over the device API",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 { // a directory is not run by mistake
				return fmt.Errorf("%q stands alone: name vectors with --vectors, and the command of a verifier behind --", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case ask.rootOut != "":
				return ask.makeRoot()
			case ask.server != "" || ask.trust != "":
				return ask.run(cmd.Context())
			}
			return askVectors(cmd.Context(), dirs, args)
		},
	}
	c.Flags().StringSliceVar(&dirs, "vectors", []string{"conformance/vectors/negative", "conformance/vectors/identity", "conformance/vectors/swtpm"}, "`DIR` with vectors; may be repeated")
	ask.add(c)
	return c
}

func askVectors(ctx context.Context, dirs, args []string) error {
	var all []vectors.Vector
	for _, dir := range dirs {
		some, err := vectors.Load(os.DirFS(dir))
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		all = append(all, some...)
	}
	if len(args) == 0 {
		return vectors.RunOurs(all, os.Stdout)
	}
	ask, stop, err := vectors.Start(ctx, os.Stderr, args[0], args[1:]...)
	if err != nil {
		return err
	}
	defer stop()
	return vectors.Run(all, ask, os.Stdout)
}

// errRunUsage is wrapped by mistakes in the flags of 'run --server'.
var errRunUsage = errors.New("cannot ask the server")

// serverFlags are those of a run against a server.
type serverFlags struct {
	server, ca, trust, root, rootOut, tokens, product, values string
	json                                                      bool
}

func (f *serverFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.server, "server", "", "ask the server at `URL`, its device listener, over the device API")
	flags.StringVar(&f.ca, "ca", "", "`FILE` with the server's CA certificate (PEM)")
	flags.StringVar(&f.trust, "trust", "", "trust bundle `FILE`, which names server and CA")
	flags.StringVar(&f.root, "ek-root", "", "`FILE` that --ek-root-out wrote")
	flags.StringVar(&f.rootOut, "ek-root-out", "", "make an endorsement root for the suite's devices, write it to `FILE` and end")
	flags.StringVar(&f.tokens, "enroll-token", "", "`FILE` with one-time enrollment tokens, one per line")
	flags.StringVar(&f.product, "product", "", "`PRODUCT` of the tokens")
	flags.StringVar(&f.values, "values", "", "`FILE` with the Reference Values that the devices boot, instead of a published release's")
	flags.BoolVar(&f.json, "json", false, "write the report as JSON")
}

// makeRoot writes the root and says what to do with it.
func (f *serverFlags) makeRoot() error {
	if err := suite.NewRoot(f.rootOut); err != nil {
		return fmt.Errorf("%w: %w", errRunUsage, err)
	}
	fmt.Fprintf(os.Stderr, `wrote %[1]s, %[1]s.secret and %[1]s.pcrs. In a server for tests:
1. append %[1]s to its ek_roots_file and start it again; whoever holds %[1]s.secret can make devices for it
2. sign the devices' firmware as the baseline of a profile: cordon-sign product baseline --product PRODUCT --profile PROFILE --pcrs %[1]s.pcrs
3. make %[2]d tokens for that profile, one per line: cordonctl enroll-token new --product PRODUCT --hardware-id HARDWARE --profile PROFILE --token-out FILE
4. ask: conformance run --server URL --ca FILE --ek-root %[1]s --enroll-token FILE --product PRODUCT
`, f.rootOut, suite.Tokens())
	return nil
}

func (f *serverFlags) run(ctx context.Context) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	report, err := suite.Run(ctx, cfg)
	if len(report.Rows) == 0 && err != nil {
		return err
	}
	if f.json {
		return errors.Join(err, report.WriteJSON(os.Stdout))
	}
	return errors.Join(err, report.WriteTable(os.Stdout))
}

func (f *serverFlags) config() (suite.Config, error) {
	c := suite.Config{Server: f.server, Product: f.product, Out: os.Stderr}
	if f.root == "" {
		return c, fmt.Errorf("%w: --ek-root is missing; make one with --ek-root-out", errRunUsage)
	}
	var err error
	if c.Root, err = suite.ReadRoot(f.root); err != nil {
		return c, fmt.Errorf("%w: %w", errRunUsage, err)
	}
	if err := f.authority(&c); err != nil {
		return c, err
	}
	if f.tokens != "" {
		b, err := os.ReadFile(f.tokens)
		if err != nil {
			return c, fmt.Errorf("%w: %w", errRunUsage, err)
		}
		c.Tokens = slices.Collect(strings.FieldsSeq(string(b)))
	}
	if f.values != "" {
		b, err := os.ReadFile(f.values)
		if err != nil {
			return c, fmt.Errorf("%w: %w", errRunUsage, err)
		}
		values, err := reference.Decode(bytes.TrimSpace(b))
		if err != nil {
			return c, fmt.Errorf("%w: %w", errRunUsage, err)
		}
		c.Values = &values
	}
	if len(c.Tokens) > 0 && c.Product == "" && c.Values == nil {
		return c, fmt.Errorf("%w: --product is missing", errRunUsage)
	}
	return c, nil
}

// authority is who the server must be.
func (f *serverFlags) authority(c *suite.Config) error {
	if (f.ca == "") == (f.trust == "") {
		return fmt.Errorf("%w: give --ca or --trust", errRunUsage)
	}
	b, err := os.ReadFile(f.ca + f.trust)
	if err != nil {
		return fmt.Errorf("%w: %w", errRunUsage, err)
	}
	c.CA = b
	if f.trust == "" {
		return nil
	}
	trust, err := wire.DecodeTrust(b)
	if err != nil {
		return fmt.Errorf("%w: %w", errRunUsage, err)
	}
	if c.CA = []byte(trust.ServerCA); c.Server == "" {
		c.Server = trust.Server
	}
	return nil
}
