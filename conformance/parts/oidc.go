package parts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// OIDC is the token service of two CI systems on one loopback port: it answers what GitHub Actions and GitLab CI answer
// to a job that asks who it is. It gives a token to whoever asks as any job: it authenticates nobody.
type OIDC struct {
	// GitHub and GitLab are two different issuers with keys of their own.
	GitHub, GitLab *Issuer

	server *loopback

	mu   sync.Mutex
	jobs map[string]Job // request token -> the job of GitHub that it was given to
}

// Issuer signs the identity tokens of one CI system.
type Issuer struct {
	url    string
	key    jose.JSONWebKey
	signer jose.Signer
	claims func(Job) map[string]any
	id     func(Job) Identity
}

// Job is what runs in CI. The zero value is the release workflow of acme/gateway on tag v1.0.
type Job struct {
	Repository string         // Optional: owner/name
	Workflow   string         // Optional: path of the workflow in the repository
	Ref        string         // Optional: refs/heads/... or refs/tags/...
	Audience   string         // Optional: whom the token is for; sigstore by default
	Age        time.Duration  // Optional: how long ago the token was issued; it lives for five minutes
	Claims     map[string]any // Optional: replaces claims of the token; nil removes one
}

// Identity is what Fulcio certifies for a job, and what a publisher policy asks for.
type Identity struct {
	Issuer, Subject, SourceRepository, Ref string
}

// tokenLife is how long GitHub's tokens are valid.
const tokenLife = 5 * time.Minute

// StartOIDC starts the token service. It ends with this process, or by Stop.
func StartOIDC() (*OIDC, error) {
	o := &OIDC{jobs: map[string]Job{}}
	mux := http.NewServeMux()
	var err error
	if o.server, err = listenLoopback(mux); err != nil {
		return nil, err
	}
	o.GitHub, err = newIssuer(o.server.url()+"/github", githubClaims, githubIdentity)
	if err == nil {
		o.GitLab, err = newIssuer(o.server.url()+"/gitlab", gitlabClaims, gitlabIdentity)
	}
	if err != nil {
		o.server.stop()
		return nil, err
	}
	for path, issuer := range map[string]*Issuer{"/github": o.GitHub, "/gitlab": o.GitLab} {
		mux.HandleFunc("GET "+path+"/.well-known/openid-configuration", issuer.discovery)
		mux.HandleFunc("GET "+path+"/keys", issuer.keys)
	}
	mux.HandleFunc("GET /github/request", o.actionsToken)
	return o, nil
}

func newIssuer(url string, claims func(Job) map[string]any, id func(Job) Identity) (*Issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make the key of an OIDC issuer: %w", err)
	}
	i := &Issuer{url: url, claims: claims, id: id, key: jose.JSONWebKey{Key: key, KeyID: "key-1", Algorithm: string(jose.ES256), Use: "sig"}}
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("cannot make an OIDC issuer: %w", err)
	}
	return i, nil
}

// Stop ends the token service.
func (o *OIDC) Stop() { o.server.stop() }

// URL is the issuer, as tokens and certificates name it.
func (i *Issuer) URL() string { return i.url }

// Token is the identity token of a job.
func (i *Issuer) Token(job Job) (string, error) {
	job = job.complete()
	issued := time.Now().Add(-job.Age)
	claims := i.claims(job)
	maps.Copy(claims, map[string]any{
		"iss": i.url, "aud": job.Audience, "jti": rand.Text(),
		"iat": issued.Unix(), "nbf": issued.Unix(), "exp": issued.Add(tokenLife).Unix(),
	})
	for name, value := range job.Claims {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	token, err := jwt.Signed(i.signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("cannot sign an identity token: %w", err)
	}
	return token, nil
}

// Identity is what a certificate for a job's token says. Claims that Job.Claims replaces are not looked at.
func (i *Issuer) Identity(job Job) Identity {
	id := i.id(job.complete())
	id.Issuer = i.url
	return id
}

// ActionsEnvironment is the environment in which GitHub Actions runs a job that may ask for identity tokens.
func (o *OIDC) ActionsEnvironment(job Job) []string {
	token := rand.Text()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.jobs[token] = job
	return []string{"GITHUB_ACTIONS=true", "ACTIONS_ID_TOKEN_REQUEST_URL=" + o.GitHub.url + "/request?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + token}
}

// GitLabEnvironment is the environment of a job of GitLab CI that declares SIGSTORE_ID_TOKEN under id_tokens.
func (o *OIDC) GitLabEnvironment(job Job) ([]string, error) {
	token, err := o.GitLab.Token(job)
	if err != nil {
		return nil, err
	}
	return []string{"GITLAB_CI=true", "SIGSTORE_ID_TOKEN=" + token}, nil
}

// actionsToken is GitHub's token service: the request token says which job asks, the query for whom the answer is.
func (o *OIDC) actionsToken(w http.ResponseWriter, r *http.Request) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	o.mu.Lock()
	job, known := o.jobs[token]
	o.mu.Unlock()
	if !strings.EqualFold(scheme, "bearer") || !known {
		http.Error(w, `{"message":"the request token is not valid"}`, http.StatusUnauthorized)
		return
	}
	if job.Audience == "" {
		job.Audience = r.URL.Query().Get("audience")
	}
	if job.Audience == "" { // what GitHub does
		owner, _, _ := strings.Cut(job.complete().Repository, "/")
		job.Audience = "https://github.com/" + owner
	}
	signed, err := o.GitHub.Token(job)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, map[string]any{"count": len(signed), "value": signed})
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{
		"issuer": i.url, "jwks_uri": i.url + "/keys", "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	})
}

func (i *Issuer) keys(w http.ResponseWriter, _ *http.Request) {
	public := i.key.Public()
	b, err := public.MarshalJSON()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"keys":[%s]}`, b)
}

func (j Job) complete() Job {
	if j.Repository == "" {
		j.Repository = "acme/gateway"
	}
	if j.Ref == "" {
		j.Ref = "refs/tags/v1.0"
	}
	if j.Audience == "" {
		j.Audience = sigstoreAudience
	}
	return j
}

func (j Job) workflow(standard string) string {
	if j.Workflow == "" {
		return standard
	}
	return j.Workflow
}

const commit = "5f1c0e2d9b6a7c8d4e3f2a1b0c9d8e7f6a5b4c3d"

// githubClaims are the claims of a token of GitHub Actions (docs.github.com, "OpenID Connect reference").
func githubClaims(j Job) map[string]any {
	owner, _, _ := strings.Cut(j.Repository, "/")
	workflow := j.Repository + "/" + j.workflow(".github/workflows/release.yml") + "@" + j.Ref
	kind, name, _ := strings.Cut(strings.TrimPrefix(j.Ref, "refs/"), "/")
	refType := "branch"
	if kind == "tags" {
		refType = "tag"
	}
	return map[string]any{
		"sub": "repo:" + j.Repository + ":ref:" + j.Ref, "ref": j.Ref, "ref_type": refType, "ref_name": name, "sha": commit,
		"repository": j.Repository, "repository_id": "4711", "repository_owner": owner, "repository_owner_id": "42",
		"repository_visibility": "private", "run_id": "1000", "run_number": "10", "run_attempt": "1", "actor": "octocat",
		"actor_id": "7", "event_name": "push", "workflow": "release", "workflow_ref": workflow, "workflow_sha": commit,
		"job_workflow_ref": workflow, "job_workflow_sha": commit, "runner_environment": "github-hosted",
	}
}

func githubIdentity(j Job) Identity {
	repository := "https://github.com/" + j.Repository
	return Identity{
		Subject:          repository + "/" + j.workflow(".github/workflows/release.yml") + "@" + j.Ref,
		SourceRepository: repository, Ref: j.Ref,
	}
}

// gitlabClaims are the claims of an ID token of GitLab CI (docs.gitlab.com, "OpenID Connect authentication").
func gitlabClaims(j Job) map[string]any {
	namespace, _, _ := strings.Cut(j.Repository, "/")
	kind, name, _ := strings.Cut(strings.TrimPrefix(j.Ref, "refs/"), "/")
	refType := "branch"
	if kind == "tags" {
		refType = "tag"
	}
	return map[string]any{
		"sub": "project_path:" + j.Repository + ":ref_type:" + refType + ":ref:" + name, "ref": name, "ref_type": refType, "ref_path": j.Ref,
		"ref_protected": "true", "sha": commit, "project_path": j.Repository, "project_id": "4711", "namespace_path": namespace,
		"namespace_id": "42", "project_visibility": "private", "user_login": "octocat", "user_id": "7", "pipeline_id": "1000",
		"pipeline_source": "push", "job_id": "10", "runner_id": 1, "runner_environment": "gitlab-hosted",
		"ci_config_ref_uri": "gitlab.com/" + j.Repository + "//" + j.workflow(".gitlab-ci.yml") + "@" + j.Ref, "ci_config_sha": commit,
	}
}

func gitlabIdentity(j Job) Identity {
	repository := "https://gitlab.com/" + j.Repository
	return Identity{
		Subject:          repository + "//" + j.workflow(".gitlab-ci.yml") + "@" + j.Ref,
		SourceRepository: repository, Ref: j.Ref,
	}
}
