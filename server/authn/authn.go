// Package authn knows who calls the admin API: named people by their tokens.
//
// A token is 32 random bytes; the database keeps its SHA-256 only. The one-time token of the first start creates the
// first two people and is void after that.
package authn

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/server/problem"
	"github.com/cordon-ota/cordon/server/store"
)

// Store is what authentication reads. Missing rows are store.ErrNotFound.
type Store interface {
	Token(ctx context.Context, hash digest.SHA256) (store.Token, error)
	Person(ctx context.Context, name string) (store.Person, error)
	ListPeople(ctx context.Context) ([]store.Person, error)
	Setting(ctx context.Context, name string) (value []byte, version int64, err error)
}

// SettingBootstrap names the setting with the SHA-256 of the one-time token. A value of another length is no token's:
// that is how the token is voided.
const SettingBootstrap = "bootstrap_token"

// BootstrapPeople is how many people the one-time token creates.
const BootstrapPeople = 2

// Bootstrap is the caller's name while the one-time token is used.
const Bootstrap = "bootstrap"

const tokenPrefix = "cordon_"

// Caller is who calls.
type Caller struct {
	Name  string
	Roles []string
}

// NewToken draws a token.
func NewToken() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// Hash is what the database keeps of a token. Tokens are random, so a fast hash is enough; looking it up by its hash
// compares in the database's index, where timing tells nothing about the token.
func Hash(token string) digest.SHA256 { return digest.Of([]byte(token)) }

// Service finds callers.
type Service struct {
	store Store
	now   func() time.Time
}

// New makes the service.
func New(s Store, now func() time.Time) *Service { return &Service{store: s, now: now} }

// Caller reads the Authorization header. Errors are *problem.Error: unauthenticated or token_expired.
func (s *Service) Caller(ctx context.Context, header string) (Caller, error) {
	token, ok := strings.CutPrefix(header, "Bearer ")
	if !ok || len(token) > 256 || !strings.HasPrefix(token, tokenPrefix) {
		return Caller{}, problem.New(http.StatusUnauthorized, reason.Unauthenticated, "send 'Authorization: Bearer <token>'")
	}
	t, err := s.store.Token(ctx, Hash(token))
	if errors.Is(err, store.ErrNotFound) {
		return s.bootstrap(ctx, token)
	}
	if err != nil {
		return Caller{}, fmt.Errorf("cannot read the token: %w", err)
	}
	if !t.Revoked.IsZero() || !s.now().Before(t.Expires) {
		return Caller{}, problem.New(http.StatusUnauthorized, reason.TokenExpired, "the token of %s ended on %s", t.Person, ended(t).UTC().Format(time.RFC3339))
	}
	p, err := s.store.Person(ctx, t.Person)
	if err != nil {
		return Caller{}, fmt.Errorf("cannot read the person: %w", err)
	}
	if p.Disabled {
		return Caller{}, problem.New(http.StatusUnauthorized, reason.TokenExpired, "the account %s is disabled", p.Name)
	}
	return Caller{Name: p.Name, Roles: p.Roles}, nil
}

func ended(t store.Token) time.Time {
	if !t.Revoked.IsZero() {
		return t.Revoked
	}
	return t.Expires
}

// bootstrap accepts the one-time token as long as fewer than BootstrapPeople exist.
func (s *Service) bootstrap(ctx context.Context, token string) (Caller, error) {
	unknown := problem.New(http.StatusUnauthorized, reason.Unauthenticated, "the token is not known")
	value, _, err := s.store.Setting(ctx, SettingBootstrap)
	if errors.Is(err, store.ErrNotFound) {
		return Caller{}, unknown
	}
	if err != nil {
		return Caller{}, fmt.Errorf("cannot read the bootstrap setting: %w", err)
	}
	want, err := digest.FromBytes(value)
	if err != nil || want != Hash(token) {
		return Caller{}, unknown
	}
	people, err := s.store.ListPeople(ctx)
	if err != nil {
		return Caller{}, fmt.Errorf("cannot count people: %w", err)
	}
	if len(people) >= BootstrapPeople {
		return Caller{}, problem.New(http.StatusUnauthorized, reason.TokenExpired, "the one-time token is void: %d people exist", len(people))
	}
	return Caller{Name: Bootstrap, Roles: []string{api.RoleAdmin}}, nil
}
