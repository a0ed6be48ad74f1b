package keyless_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/cordon-ota/cordon/conformance/keyless"
	"github.com/cordon-ota/cordon/conformance/parts"
)

// pipelines is the folder of the pipelines that people copy.
func pipelines(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../signer/ci")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// release is the job of the copied pipelines: the branch "release".
var release = parts.Job{Ref: "refs/heads/release"}

// newPipelineStage knows three publishers: both CI systems' jobs on their branch, and a key.
func newPipelineStage(t *testing.T, sigstore *parts.Sigstore) *keyless.Stage {
	t.Helper()
	s := keyless.New(t, keyless.Config{Bin: programs.Dir(t), Sigstore: sigstore, Policies: map[string]string{
		keyless.Product: keyless.Publisher("github", sigstore.OIDC.GitHub.Identity(release)) + keyless.Publisher("gitlab", sigstore.OIDC.GitLab.Identity(release)) +
			"[[publisher]]\nname = \"vendor\"\nkey_file = \"publisher.pub.pem\"\n",
	}})
	config, err := os.ReadFile(sigstore.SigningConfig())
	if err != nil {
		t.Fatal(err)
	}
	s.Write("signing_config.json", string(config))
	s.Write("app.efi", "the image that the build makes")
	return s
}

// published checks who signed what the pipeline has published.
func published(t *testing.T, s *keyless.Stage, version, publisher string) {
	t.Helper()
	r, err := s.API("bob").Release(t.Context(), keyless.Product, version)
	if err != nil || r.State != "published" || !slices.Equal(r.Publishers, []string{publisher}) {
		t.Errorf("%s: %s by %q, %v, want it published by %s", version, r.State, r.Publishers, err, publisher)
	}
	for _, suffix := range []string{".json", ".sigstore.json"} {
		if b, err := os.ReadFile(s.Path("cordon-out", keyless.Product+"-"+version+suffix)); err != nil || len(b) == 0 {
			t.Errorf("%s: the pipeline keeps %d bytes, %v", suffix, len(b), err)
		}
	}
}

// The components of the stage are no UKIs: the pipelines' own value, with another installer.
const component = "app=app.efi,hw=board-a,installer=rauc"

type action struct {
	Inputs map[string]struct {
		Required bool
		Default  string
	}
	Runs struct {
		Using string
		Steps []struct {
			Name, Shell, Run string
			Env              map[string]string
		}
	}
}

var expression = regexp.MustCompile(`\$\{\{ *([a-z0-9.-]+) *\}\}`)

// Every pipeline that people copy is executed as it stands, in turn, against one server.
func TestPipelinesPublish(t *testing.T) {
	t.Parallel()
	sigstore := parts.TestSigstore(t)
	s := newPipelineStage(t, sigstore)
	t.Run("GitHub", func(t *testing.T) { gitHubPipeline(t, s, sigstore) })
	t.Run("GitLab", func(t *testing.T) { gitLabPipeline(t, s, sigstore) })
	t.Run("shell", func(t *testing.T) { shellPipeline(t, s, sigstore) })
}

// gitHubPipeline is the step for GitHub Actions, as a runner executes it: keyless, again, and with a key.
func gitHubPipeline(t *testing.T, s *keyless.Stage, sigstore *parts.Sigstore) {
	t.Helper()
	var a action
	readYAML(t, filepath.Join(pipelines(t), "github", "action.yml"), &a)
	key, err := os.ReadFile(s.Path("publisher.pem"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(s.TokenFile("ci-builder"))
	if err != nil {
		t.Fatal(err)
	}
	base := map[string]string{"server": s.URL(), "ca-sha256": s.Pin(), "token": strings.TrimSpace(string(token)), "product": keyless.Product, "components": component + "\n"}
	for _, run := range []struct {
		with      map[string]string
		publisher string
	}{
		{map[string]string{"version": "1.0", "signing-config": "signing_config.json", "trusted-root": sigstore.TrustedRoot()}, "github"},
		{map[string]string{"version": "1.0", "signing-config": "signing_config.json"}, "github"},
		{map[string]string{"version": "1.1", "key": string(key)}, "vendor"},
	} {
		values := map[string]string{"runner.temp": s.Path("tmp")}
		for name, input := range a.Inputs {
			value, given := base[name]
			if own, ok := run.with[name]; ok {
				value, given = own, true
			}
			if !given && input.Required {
				t.Fatalf("input %s is not given", name)
			}
			if !given {
				value = input.Default
			}
			values["inputs."+name] = value
		}
		runSteps(t, s, a, values, sigstore.OIDC.ActionsEnvironment(release))
		published(t, s, run.with["version"], run.publisher)
	}
	if left, err := filepath.Glob(s.Path("tmp", "tmp.*")); err != nil || len(left) > 0 {
		t.Errorf("secrets were left in %q, %v", left, err)
	}
}

func runSteps(t *testing.T, s *keyless.Stage, a action, values map[string]string, env []string) {
	t.Helper()
	if a.Runs.Using != "composite" || len(a.Runs.Steps) == 0 {
		t.Fatalf("the action is %q with %d steps", a.Runs.Using, len(a.Runs.Steps))
	}
	env = append(env, "GITHUB_ACTION_PATH="+filepath.Join(pipelines(t), "github"), "GITHUB_PATH="+s.Path("github-path"))
	for _, step := range a.Runs.Steps {
		if expression.MatchString(step.Run) {
			t.Errorf("step %q: a value goes into the text of its script: %s", step.Name, expression.FindString(step.Run))
		}
		own := slices.Clone(env)
		for name, text := range step.Env {
			value := expression.ReplaceAllStringFunc(text, func(e string) string {
				v, ok := values[expression.FindStringSubmatch(e)[1]]
				if !ok {
					t.Errorf("step %q: %s names no input", step.Name, e)
				}
				return v
			})
			own = append(own, name+"="+value)
		}
		script := s.Write("step.sh", step.Run)
		// docs.github.com, "jobs.<job_id>.steps[*].shell": how bash is called
		if r := s.Exec(own, "bash", "--noprofile", "--norc", "-eo", "pipefail", script); r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, "eyJ") {
			t.Fatalf("step %q ended with %d:\n%s%s", step.Name, r.Code, r.Stdout, r.Stderr)
		}
	}
}

// The workflow that people copy uses the step as it is.
func TestGitHubWorkflowFitsTheStep(t *testing.T) {
	t.Parallel()
	var a action
	readYAML(t, filepath.Join(pipelines(t), "github", "action.yml"), &a)
	var w struct {
		Permissions map[string]string
		Jobs        map[string]struct {
			Steps []struct {
				Uses string
				With map[string]string
			}
		}
	}
	readYAML(t, filepath.Join(pipelines(t), "github", "release.yml"), &w)
	if !maps.Equal(w.Permissions, map[string]string{"contents": "read", "id-token": "write"}) {
		t.Errorf("permissions are %v", w.Permissions)
	}
	uses := 0
	for _, step := range w.Jobs["publish"].Steps {
		if !strings.HasPrefix(step.Uses, "cordon-ota/cordon/signer/ci/github@") {
			continue
		}
		uses++
		for name := range step.With {
			if _, ok := a.Inputs[name]; !ok {
				t.Errorf("the step has no input %s", name)
			}
		}
		for name, input := range a.Inputs {
			if _, given := step.With[name]; input.Required && !given {
				t.Errorf("input %s is not given", name)
			}
		}
	}
	if uses != 1 {
		t.Errorf("the workflow uses the step %d times", uses)
	}
}

type gitLabJob struct {
	Extends      string
	Variables    map[string]string
	BeforeScript []string `yaml:"before_script"`
	Script       []string
	IDTokens     map[string]struct{ Aud string } `yaml:"id_tokens"`
}

// gitLabPipeline are the jobs for GitLab, as a runner executes them.
func gitLabPipeline(t *testing.T, s *keyless.Stage, sigstore *parts.Sigstore) {
	t.Helper()
	var jobs map[string]gitLabJob
	readYAML(t, filepath.Join(pipelines(t), "gitlab-ci.yml"), &jobs)
	if err := os.Symlink(pipelines(t), s.Path("ci")); err != nil {
		t.Fatal(err)
	}
	for i, run := range []struct{ job, publisher string }{{"publish", "gitlab"}, {"publish-with-key", "vendor"}} {
		job := jobs[run.job]
		base := jobs[job.Extends]
		version := fmt.Sprintf("2.%d", i)
		s.Write("VERSION", version+"\n")
		env := []string{"CI_PROJECT_DIR=" + s.Path(), "CORDON_SERVER=" + s.URL(), "CORDON_CA_SHA256=" + s.Pin(), "CORDON_TOKEN_FILE=" + s.TokenFile("ci-builder")}
		if run.publisher == "vendor" {
			env = append(env, "CORDON_KEY_FILE="+s.Path("publisher.pem"))
		}
		for name, declared := range job.IDTokens {
			raw, err := sigstore.OIDC.GitLab.Token(parts.Job{Ref: release.Ref, Audience: declared.Aud})
			if err != nil {
				t.Fatal(err)
			}
			env = append(env, name+"="+raw)
		}
		for _, variables := range []map[string]string{base.Variables, job.Variables} {
			for name, value := range variables {
				env = append(env, name+"="+strings.ReplaceAll(value, "$CI_PROJECT_DIR", s.Path()))
			}
		}
		env = append(env, "CORDON_COMPONENTS="+component) // the last one counts
		script := s.Write("job.sh", strings.Join(append(base.BeforeScript, base.Script...), "\n"))
		if r := s.Exec(env, "sh", "-e", script); r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, "eyJ") {
			t.Fatalf("job %s ended with %d:\n%s%s", run.job, r.Code, r.Stdout, r.Stderr)
		}
		published(t, s, version, run.publisher)
	}
}

// shellPipeline takes a token from a file, for a CI that nobody has heard of.
func shellPipeline(t *testing.T, s *keyless.Stage, sigstore *parts.Sigstore) {
	t.Helper()
	raw, err := sigstore.OIDC.GitLab.Token(release)
	if err != nil {
		t.Fatal(err)
	}
	s.Write("identity.token", raw)
	base := []string{
		"CORDON_SERVER=" + s.URL(), "CORDON_CA_SHA256=" + s.Pin(), "CORDON_TOKEN_FILE=" + s.TokenFile("ci-builder"), "CORDON_PRODUCT=" + keyless.Product,
		"CORDON_COMPONENTS=" + component + " data=VERSION,hw=board-a+board-b,installer=script", "CORDON_OUT=cordon-out",
	}
	s.Write("VERSION", "3.0\n")
	script := filepath.Join(pipelines(t), "publish.sh")
	for i, run := range []struct {
		env       []string
		publisher string
	}{
		{[]string{"CORDON_SIGNING_CONFIG=signing_config.json", "CORDON_IDENTITY_TOKEN_FILE=identity.token", "CORDON_TRUSTED_ROOT=" + sigstore.TrustedRoot()}, "gitlab"},
		{[]string{"CORDON_KEY_FILE=publisher.pem"}, "vendor"},
	} {
		version := fmt.Sprintf("3.%d", i)
		r := s.Exec(slices.Concat(base, run.env, []string{"CORDON_VERSION=" + version}), "sh", script)
		if r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, "eyJ") {
			t.Fatalf("publish.sh ended with %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		published(t, s, version, run.publisher)
	}
	if r := s.Exec(append(base, "CORDON_VERSION=3.2"), "sh", script); r.Code == 0 || !strings.Contains(r.Stderr, "CORDON_SIGNING_CONFIG") {
		t.Errorf("with nobody who signs it ended with %d:\n%s", r.Code, r.Stderr)
	}
}
