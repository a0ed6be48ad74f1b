package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/cordon-ota/cordon/artifacts/provenance"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/signer/keyless"
	"github.com/cordon-ota/cordon/signer/publish"
)

// publishLong is the part of the help that flags have no room for.
const publishLong = `Sign a release and hand it to the server; the same release again changes nothing.

With --key a key file signs. Without it the pipeline's identity token does (keyless, Sigstore): the token comes from
  1. --identity-token-file FILE, or - for standard input,
  2. GitHub Actions (ACTIONS_ID_TOKEN_REQUEST_URL; the job needs "permissions: id-token: write"),
  3. the variable SIGSTORE_ID_TOKEN (GitLab: "id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore"; any other CI that sets it),
the first that is there. --signing-config names the Sigstore that signs; there is no default, because a public one
shows the names of repository, workflow and tag to everybody, for good. Before anything is uploaded, the new bundle is
held against the product's offline policy and the Sigstore trusted root that the holders signed for this server.`

// keylessFlags are the flags of signing without a key.
type keylessFlags struct {
	signingConfig string
	trustedRoot   string
	tokenFile     string
	audience      string

	instance keyless.Instance
	own      []byte
	source   *keyless.Source
	steps    func(string) // set once there is a line to write on
}

func (k *keylessFlags) add(f *pflag.FlagSet) {
	f.StringVar(&k.signingConfig, "signing-config", "", "signing_config.json `FILE` of the Sigstore that signs; needed without --key")
	f.StringVar(&k.trustedRoot, "trusted-root", "", "trusted_root.json `FILE` that the bundle must verify with as well; the server's is always asked")
	f.StringVar(&k.tokenFile, "identity-token-file", "", "`FILE` with the pipeline's identity token, - for standard input")
	f.StringVar(&k.audience, "identity-audience", keyless.DefaultAudience, "whom the identity token is for")
}

// check refuses flags of both kinds of signing together, and keyless signing without a Sigstore.
func (k *keylessFlags) check(key string) error {
	given := map[string]string{"--signing-config": k.signingConfig, "--trusted-root": k.trustedRoot, "--identity-token-file": k.tokenFile}
	if key != "" {
		for flag, value := range given {
			if value != "" {
				return fmt.Errorf("%w: --key signs with a key and %s without one; give one of them", errUsage, flag)
			}
		}
		return nil
	}
	if k.signingConfig == "" {
		return errNoInstance
	}
	return nil
}

// load reads the files and looks for a token, all before an image is read.
func (k *keylessFlags) load() error {
	b, err := readFile(k.signingConfig, keyless.MaxSigningConfigBytes)
	if err != nil {
		return fmt.Errorf("cannot read signing config: %w", err)
	}
	if k.instance, err = keyless.ParseInstance(b, time.Now()); err != nil {
		return err
	}
	if k.trustedRoot != "" {
		if k.own, err = readFile(k.trustedRoot, provenance.MaxTrustedRootBytes); err != nil {
			return fmt.Errorf("cannot read trusted root: %w", err)
		}
	}
	sources := keyless.Sources{File: k.tokenFile, Stdin: os.Stdin, Env: os.Getenv, Audience: k.audience, Config: keyless.Config{Step: k.step}}
	k.source, err = sources.Choose()
	return err
}

// step is for parts that are made before the line on stderr is.
func (k *keylessFlags) step(text string) {
	if k.steps != nil {
		k.steps(text)
	}
}

// signer asks the server what it will hold the bundle against, and makes a signer that does the same first.
func (k *keylessFlags) signer(ctx context.Context, client *api.Client, root int64, product string, step func(string)) (publish.Signer, error) {
	k.steps = step
	expect, err := keyless.Fetch(ctx, client, root, product, time.Now())
	if err == nil && k.own != nil {
		expect, err = expect.WithOwn(k.own)
	}
	if err != nil {
		return nil, err
	}
	return keyless.New(keyless.Config{Instance: k.instance, Expect: expect, Token: k.source.Token, Step: step}), nil
}
