// Package npm holds JavaScript clients of others, tuf-js and sigstore-js, behind two small programs, so that tests can
// ask an implementation that shares nothing with ours what it thinks of what we write.
//
// It promises that exactly the packages of package-lock.json take part, checked by npm against their digests, and that
// none of their install scripts run. Nobody trusts it: it is test equipment.
package npm

import (
	"context"
	"embed"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/cordon-ota/cordon/conformance/parts"
)

//go:embed package.json package-lock.json .npmrc *.mjs
var files embed.FS

// Client is the programs with the packages that they need.
type Client struct{ dir string }

// Open makes the programs ready; the first call on a machine has npm fetch the packages.
func Open(ctx context.Context) (Client, error) {
	dir, err := parts.NodeDir(ctx, files)
	return Client{dir}, err
}

// Version is the version of a package of package.json, by the name that programs import.
func Version(name string) string {
	b, err := files.ReadFile("package.json")
	if err != nil {
		return ""
	}
	var manifest struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(b, &manifest); err != nil {
		return ""
	}
	version := manifest.Dependencies[name]
	return version[strings.LastIndex(version, "@")+1:]
}

// TUF runs tuf-js. It speaks the command line of the TUF conformance suite: --metadata-dir DIR init ROOT, --metadata-url
// URL --metadata-dir DIR refresh, and download with --target-name, --target-dir and --target-base-url. An exit code of 1
// is a refusal, named on stderr. caFile are the only TLS roots beside Node's own; empty for none.
func (c Client) TUF(ctx context.Context, caFile string, args ...string) (parts.Output, error) {
	var env []string
	if caFile != "" {
		env = []string{"NODE_EXTRA_CA_CERTS=" + caFile}
	}
	return parts.Node(ctx, c.dir, "tuf.mjs", env, args...)
}

// Sigstore runs sigstore-js: --engine 3 or 4, then what the Sigstore conformance suite gives to verify-bundle. An exit
// code of 1 is a refusal, named on stderr.
func (c Client) Sigstore(ctx context.Context, args ...string) (parts.Output, error) {
	return parts.Node(ctx, c.dir, "sigstore.mjs", nil, args...)
}
