// Package config reads the one configuration file of cordond. The Config struct is its manual: every field has its
// default, its unit and what it excludes. A file is optional: without one the server runs on its defaults.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/cordon-ota/cordon/artifacts/tlog"
)

// ErrConfig is wrapped by every error about the content of a configuration.
var ErrConfig = errors.New("configuration is not valid")

// maxFile bounds a configuration file in bytes.
const maxFile = 1 << 20

// Config is the whole configuration. Durations are written like "15m" or "24h".
type Config struct {
	// DataDir holds online keys, CAs and, by default, database and artifacts. Relative paths are relative to the
	// working directory. Default "./cordon-data".
	DataDir string `toml:"data_dir"`
	// Names are the DNS names and IP addresses of this server; the first one is in URLs. Default ["localhost",
	// "127.0.0.1", "::1"].
	Names []string `toml:"names"`
	// TrustDomain is the SPIFFE trust domain of device certificates. Default: the first of Names.
	TrustDomain string `toml:"trust_domain"`
	// Database is "sqlite:FILE" or a "postgres://" URL. Default "sqlite:<data_dir>/cordon.db". PostgreSQL is needed for
	// more than one replica. A password belongs into DatabaseFile.
	Database string `toml:"database"`
	// DatabaseFile is a file that holds the value of Database instead. Optional; excludes Database.
	DatabaseFile string `toml:"database_file"`
	// Artifacts is the directory of the artifact store. Default "<data_dir>/artifacts". Excludes [s3].
	Artifacts string `toml:"artifacts"`
	// EKRootsFile holds the PEM certificates of TPM manufacturers (roots and intermediates) that this server trusts.
	// A line "Manufacturers: id:49465800, ..." before a certificate binds it to these manufacturers. Optional: without it and
	// without endorsement.manufacturers no TPM with a certificate can enroll, and the server says so at its start.
	EKRootsFile string `toml:"ek_roots_file"`

	S3     S3     `toml:"s3"`
	Listen Listen `toml:"listen"`
	Times  Times  `toml:"times"`
	Log    Log    `toml:"log"`
	Audit  Audit  `toml:"audit"`

	Endorsement Endorsement `toml:"endorsement"`

	Presign   Presign   `toml:"presign"`
	Retention Retention `toml:"retention"`
	Segment   Segment   `toml:"segment"`
}

// S3 keeps artifacts in a bucket instead of a directory. The bucket must exist; it needs conditional writes, and a
// lifecycle rule that aborts incomplete multipart uploads after some days.
type S3 struct {
	// Endpoint is the URL of the S3 server, like "https://s3.example". Optional: without it the directory is used.
	Endpoint string `toml:"endpoint"`
	// Bucket is the name of the bucket. Needed with Endpoint.
	Bucket string `toml:"bucket"`
	// Prefix stands before every object's name. Optional.
	Prefix string `toml:"prefix"`
	// Region is the region of the bucket. Optional.
	Region string `toml:"region"`
	// AccessKeyFile and SecretKeyFile hold the credentials. Needed with Endpoint.
	AccessKeyFile string `toml:"access_key_file"`
	// SecretKeyFile: see AccessKeyFile.
	SecretKeyFile string `toml:"secret_key_file"`
	// CAFile holds the PEM certificates of the CA of the S3 server. Optional: default the system's.
	CAFile string `toml:"ca_file"`
	// PathStyle puts the bucket into the path instead of the host name. Default false.
	PathStyle bool `toml:"path_style"`
	// OmitChecksums leaves the stored checksum header away, for servers that refuse it. Default false.
	OmitChecksums bool `toml:"omit_checksums"`
	// IdleTimeout is how long nothing may move on a connection to the S3 server before it is given up and tried again;
	// after four tries the store counts as away. Default "2m".
	IdleTimeout Duration `toml:"idle_timeout"`
	// LockMode is "governance" or "compliance": what a release that gets published consists of is locked, in a bucket with
	// object lock. Nobody ends a compliance lock early, not even the owner of the bucket. Optional: nothing is locked.
	LockMode string `toml:"lock_mode"`
	// LockDays is how long, from the publication. Needed with LockMode; at least 1.
	LockDays int `toml:"lock_days"`
}

// Presign lets devices read firmware of some products from the bucket itself, past the door: with URLs that open one
// range of one image for Life. What was signed cannot be taken back by a hold or a quarantine (threat model). Needs [s3].
type Presign struct {
	// Products are the products whose firmware may be read so. Optional: default none.
	Products []string `toml:"products"`
	// Life is how long a URL lives, "1s" to "60s". Default "30s".
	Life Duration `toml:"life"`
	// Endpoint is the URL of the S3 server as devices reach it. Optional: default s3.endpoint.
	Endpoint string `toml:"endpoint"`
	// CAFile holds the PEM certificates of the CA that devices trust for it. Optional: default s3.ca_file.
	CAFile string `toml:"ca_file"`
}

// Retention is how long artifacts are kept that nothing refers to.
type Retention struct {
	// Disabled keeps everything until somebody runs 'cordonctl release gc --apply'. Default false.
	Disabled bool `toml:"disabled"`
	// Every is the time between two rounds. Default "1h".
	Every Duration `toml:"every"`
	// Grace: a blob is left alone for this long after it was written, after a publisher was told that it is there, and
	// after its release was pruned. At least "1h". Default "24h".
	Grace Duration `toml:"grace"`
	// Uploads: an unfinished upload is thrown away when nothing of it came for this long. At least "1h". Default "168h".
	Uploads Duration `toml:"uploads"`
	// KeepReleases prunes releases of a product beyond this many newest ones, unless a device may need them. At least 2, or
	// 0 for none. Default 0: releases are pruned by hand alone.
	KeepReleases int `toml:"keep_releases"`
}

// Listen holds the addresses. Port 0 takes a free one.
type Listen struct {
	// Devices is the device API. Default ":8443".
	Devices string `toml:"devices"`
	// Admin is the admin API. Default ":8444".
	Admin string `toml:"admin"`
	// Metrics is plain HTTP for Prometheus; keep it on loopback. Default "127.0.0.1:9090".
	Metrics string `toml:"metrics"`
	// DeviceURL is what devices connect to, if it is not https://<first name>:<devices port>. Optional.
	DeviceURL string `toml:"device_url"`
}

// Times are the intervals of the protocol (conformance/docs/protocol.md).
type Times struct {
	// Timestamp: a new timestamp, and with it a new beacon, is issued this often. Default "15m".
	Timestamp Duration `toml:"timestamp"`
	// Poll: how often a device polls, +-20 %. Default "15m".
	Poll Duration `toml:"poll"`
	// BeaconWindow: how old a beacon may be in a quote. Default "60m".
	BeaconWindow Duration `toml:"beacon_window"`
	// Lease: how long a proof is worth something, from the issue of its beacon or challenge. It must not be shorter
	// than two polls plus the beacon window plus jitter. Default "2h".
	Lease Duration `toml:"lease"`
	// Grace: after the lease, until the device is restricted. Default "24h".
	Grace Duration `toml:"grace"`
	// Challenge: how old a challenge may be; at most "5m". Default "5m".
	Challenge Duration `toml:"challenge"`
	// UpdateDeadline: from the offer of a release to the proof of its boot. Default "24h".
	UpdateDeadline Duration `toml:"update_deadline"`
	// Enforce: how often open streams are held against the current state. Default "1s".
	Enforce Duration `toml:"enforce"`
}

// Log says how to log.
type Log struct {
	// Level is "debug", "info", "warn" or "error". Default "info".
	Level string `toml:"level"`
	// Format is "text" or "json". Default "text".
	Format string `toml:"format"`
}

// Audit is the transparency log of the audit events. Which witnesses it asks stands in the offline targets
// ('cordon-sign log set').
type Audit struct {
	// Origin is the name of the log, in every checkpoint: ASCII without white space and "+". Another origin is another
	// log; after a restore from a backup the server adds its epoch. Default "<trust_domain>/audit".
	Origin string `toml:"origin"`
	// Dir holds the tiles; each replica needs its own. Default "<data_dir>/log".
	Dir string `toml:"dir"`
	// Every is how often new events are taken in and a checkpoint is signed. Default "1s".
	Every Duration `toml:"every"`
	// WitnessCAFile holds the PEM certificates of the CA of the witnesses. Optional: default the system's.
	WitnessCAFile string `toml:"witness_ca_file"`
}

// Duration is a time.Duration in TOML text.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration like \"15m\"", b)
	}
	*d = Duration(v)
	return nil
}

// Std returns the time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Jitter is the spread of poll intervals: +-20 %.
const Jitter = 0.2

// Load reads the file and fills defaults; an empty path is the default configuration.
func Load(path string) (Config, error) {
	var c Config
	if path != "" {
		if err := readFile(path, &c); err != nil {
			return Config{}, err
		}
	}
	c.setDefaults()
	if err := c.validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name(path), err)
	}
	return c, nil
}

func name(path string) string {
	if path == "" {
		return "default configuration"
	}
	return path
}

func readFile(path string, c *Config) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%w: %s is larger than %d bytes", ErrConfig, path, maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	d := toml.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	err = d.Decode(c)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		return fmt.Errorf("%w: %s: unknown key\n%s", ErrConfig, path, strict.String())
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		return fmt.Errorf("%w: %s:\n%s", ErrConfig, path, bad.String())
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %v", ErrConfig, path, err)
	}
	return nil
}

func (c *Config) setDefaults() {
	text := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	span := func(field *Duration, value time.Duration) {
		if *field == 0 {
			*field = Duration(value)
		}
	}
	text(&c.DataDir, "./cordon-data")
	if len(c.Names) == 0 {
		c.Names = []string{"localhost", "127.0.0.1", "::1"}
	}
	text(&c.TrustDomain, c.Names[0])
	if c.DatabaseFile == "" {
		text(&c.Database, "sqlite:"+filepath.Join(c.DataDir, "cordon.db"))
	}
	if c.S3 == (S3{}) {
		text(&c.Artifacts, filepath.Join(c.DataDir, "artifacts"))
	}
	text(&c.Listen.Devices, ":8443")
	text(&c.Listen.Admin, ":8444")
	text(&c.Listen.Metrics, "127.0.0.1:9090")
	span(&c.Times.Timestamp, 15*time.Minute)
	span(&c.Times.Poll, 15*time.Minute)
	span(&c.Times.BeaconWindow, 60*time.Minute)
	span(&c.Times.Lease, 2*time.Hour)
	span(&c.Times.Grace, 24*time.Hour)
	span(&c.Times.Challenge, 5*time.Minute)
	span(&c.Times.UpdateDeadline, 24*time.Hour)
	span(&c.Times.Enforce, time.Second)
	span(&c.Presign.Life, 30*time.Second)
	span(&c.Retention.Every, time.Hour)
	span(&c.Retention.Grace, 24*time.Hour)
	span(&c.Retention.Uploads, 7*24*time.Hour)
	text(&c.Audit.Origin, c.TrustDomain+"/audit")
	text(&c.Audit.Dir, filepath.Join(c.DataDir, "log"))
	span(&c.Audit.Every, time.Second)
	c.Segment.setDefaults()
	text(&c.Log.Level, "info")
	text(&c.Log.Format, "text")
}

func (c *Config) validate() error {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	if c.Database != "" && c.DatabaseFile != "" {
		say("database and database_file exclude each other")
	}
	if c.S3 != (S3{}) {
		for key, value := range map[string]string{
			"s3.endpoint": c.S3.Endpoint, "s3.bucket": c.S3.Bucket, "s3.access_key_file": c.S3.AccessKeyFile, "s3.secret_key_file": c.S3.SecretKeyFile,
		} {
			if value == "" {
				say("%s must be set when artifacts lie in a bucket", key)
			}
		}
		if c.Artifacts != "" {
			say("artifacts and [s3] exclude each other")
		}
	}
	for key, d := range map[string]Duration{
		"times.timestamp": c.Times.Timestamp, "times.poll": c.Times.Poll, "times.beacon_window": c.Times.BeaconWindow,
		"times.lease": c.Times.Lease, "times.grace": c.Times.Grace, "times.challenge": c.Times.Challenge,
		"times.update_deadline": c.Times.UpdateDeadline, "times.enforce": c.Times.Enforce,
	} {
		if d <= 0 {
			say("%s must be longer than zero", key)
		}
	}
	if c.Times.Challenge.Std() > 5*time.Minute {
		say("times.challenge must be at most 5m")
	}
	if c.Times.Timestamp > c.Times.BeaconWindow {
		say("times.timestamp must not be longer than times.beacon_window, or a fresh device would have no fresh beacon")
	}
	if shortest := c.shortestLease(); c.Times.Lease.Std() < shortest {
		say("times.lease must be at least %s: two polls with jitter plus the beacon window", shortest)
	}
	for key, address := range map[string]string{"listen.devices": c.Listen.Devices, "listen.admin": c.Listen.Admin, "listen.metrics": c.Listen.Metrics} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			say("%s: %q is not host:port", key, address)
		}
	}
	if c.Listen.DeviceURL != "" {
		if u, err := url.Parse(c.Listen.DeviceURL); err != nil || u.Scheme != "https" || u.Host == "" {
			say("listen.device_url: %q is not an https URL", c.Listen.DeviceURL)
		}
	}
	if strings.ContainsAny(c.TrustDomain, "/:@ ") || strings.ToLower(c.TrustDomain) != c.TrustDomain {
		say("trust_domain: %q is not a SPIFFE trust domain (lower-case letters, digits, . - _)", c.TrustDomain)
	}
	for _, n := range c.Names {
		if net.ParseIP(n) == nil && !dnsName.MatchString(n) {
			say("names: %q is neither a DNS name in lower case nor an IP address", n)
		}
	}
	c.validateArtifacts(say)
	c.validateDatabase(say)
	c.Segment.validate(say)
	c.Endorsement.validate(say)
	if err := tlog.ValidOrigin(fmt.Sprintf("%s/%d", c.Audit.Origin, int64(math.MaxInt64))); err != nil { // room for an epoch
		say("audit.origin: %v", err)
	}
	if c.Audit.Every.Std() < 100*time.Millisecond || c.Audit.Every.Std() > time.Minute {
		say("audit.every must be 100ms to 1m")
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		say("log.level: %q is not \"debug\", \"info\", \"warn\" or \"error\"", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		say("log.format: %q is neither \"text\" nor \"json\"", c.Log.Format)
	}
	if len(bad) > 0 {
		slices.Sort(bad)
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(bad, "; "))
	}
	return nil
}

var dnsName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// validateArtifacts checks what is locked, presigned and removed.
func (c *Config) validateArtifacts(say func(format string, args ...any)) {
	if mode := c.S3.LockMode; !slices.Contains([]string{"", "governance", "compliance"}, mode) {
		say("s3.lock_mode: %q is neither \"governance\" nor \"compliance\"", mode)
	}
	if (c.S3.LockMode == "") != (c.S3.LockDays == 0) || c.S3.LockDays < 0 || c.S3.LockDays > 36500 {
		say("s3.lock_mode and s3.lock_days must be set together, the days to 1 to 36500")
	}
	if idle := c.S3.IdleTimeout.Std(); idle != 0 && idle < time.Second {
		say("s3.idle_timeout must be at least 1s")
	}
	if len(c.Presign.Products) > 0 && c.S3 == (S3{}) {
		say("presign.products needs [s3]")
	}
	if life := c.Presign.Life.Std(); life < time.Second || life > time.Minute {
		say("presign.life must be 1s to 60s")
	}
	if c.Presign.Endpoint != "" || len(c.Presign.Products) > 0 {
		endpoint := cmp.Or(c.Presign.Endpoint, c.S3.Endpoint)
		if u, err := url.Parse(endpoint); err != nil || u.Scheme != "https" || u.Host == "" {
			say("presign.endpoint: %q is not an https URL, and devices take no other", endpoint)
		}
	}
	for key, d := range map[string]Duration{"retention.grace": c.Retention.Grace, "retention.uploads": c.Retention.Uploads} {
		if d.Std() < time.Hour {
			say("%s must be at least 1h: publishers need time between upload and publication", key)
		}
	}
	if c.Retention.Every.Std() < time.Minute {
		say("retention.every must be at least 1m")
	}
	if n := c.Retention.KeepReleases; n < 0 || n == 1 {
		say("retention.keep_releases must be 0 or at least 2: after a hold the release before is what new devices get")
	}
}

func (c *Config) validateDatabase(say func(format string, args ...any)) {
	switch {
	case c.Database == "" || strings.HasPrefix(c.Database, "sqlite:"):
	case strings.HasPrefix(c.Database, "postgres://"), strings.HasPrefix(c.Database, "postgresql://"):
		u, err := url.Parse(c.Database)
		if err != nil {
			say("database is not a URL that can be read") // the parser's text repeats the URL
			return
		}
		if _, secret := u.User.Password(); secret || u.Query().Has("password") {
			say("database holds a password: put the whole URL into a file and name it with database_file")
		}
	default:
		say("database must start with \"sqlite:\" or \"postgres://\"")
	}
}

// shortestLease is the lease that a device which polls on time can always renew.
func (c *Config) shortestLease() time.Duration {
	polls := time.Duration(2 * (1 + Jitter) * float64(c.Times.Poll.Std()))
	return polls + c.Times.BeaconWindow.Std()
}

// DSN returns the database's DSN, read from DatabaseFile if that is where it is.
func (c *Config) DSN() (string, error) {
	if c.DatabaseFile == "" {
		return c.Database, nil
	}
	b, err := os.ReadFile(c.DatabaseFile)
	if err != nil {
		return "", fmt.Errorf("cannot read database_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
