package adminapi_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/quote"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/attestation/reference"
	"github.com/cordon-ota/cordon/client/api"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/server/adminapi"
	"github.com/cordon-ota/cordon/server/authz"
)

// document loads and validates the OpenAPI document that the server serves.
func document(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI())
	if err != nil {
		t.Fatalf("openapi.yaml cannot be loaded: %v", err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("openapi.yaml is not valid: %v", err)
	}
	return doc
}

var parameter = regexp.MustCompile(`:([a-z0-9]+)`)

func TestRoutesAndDocumentAgree(t *testing.T) {
	t.Parallel()
	var want, got []string
	for _, r := range adminapi.Routes() {
		want = append(want, fmt.Sprintf("%s %s needs %s", r.Method, strings.ReplaceAll(parameter.ReplaceAllString(r.Path, "{$1}"), "/*", "/{n*}"), r.Permission))
	}
	for path, item := range document(t).Paths.Map() {
		for method, op := range item.Operations() {
			got = append(got, fmt.Sprintf("%s %s needs %v", method, path, op.Extensions["x-permission"]))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("route table (-) and openapi.yaml (+) differ:\n%s", diff)
	}
}

func TestEveryOperationSaysWhoAndWhatComesBack(t *testing.T) {
	t.Parallel()
	ids := map[string]bool{}
	for path, item := range document(t).Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s: operationId %q is empty or there twice", name, op.OperationID)
			}
			ids[op.OperationID] = true
			if op.Responses.Default() == nil {
				t.Errorf("%s: no default answer: every error is a problem document", name)
			}
			open := op.Security != nil && len(*op.Security) == 0
			if public := op.Extensions["x-permission"] == string(authz.Public); public != open {
				t.Errorf("%s: public is %v, but open in the document is %v", name, public, open)
			}
		}
	}
}

// A route whose permission no role has is closed for good, and one that everybody has needs no permission.
func TestEveryPermissionIsOfSomeRolesOnly(t *testing.T) {
	t.Parallel()
	for _, r := range adminapi.Routes() {
		if r.Permission == authz.Public {
			continue
		}
		if !authz.Allowed(authz.Roles(), r.Permission) {
			t.Errorf("%s %s: no role has the permission %q", r.Method, r.Path, r.Permission)
		}
		if authz.Allowed(nil, r.Permission) || authz.Allowed([]string{"root"}, r.Permission) {
			t.Errorf("%s %s: %q is open to callers without a role", r.Method, r.Path, r.Permission)
		}
	}
}

// schemas are the Go types behind the named schemas. Those that are missing here are plain values.
func schemas() map[string]reflect.Type {
	out := map[string]reflect.Type{
		"PersonPage": reflect.TypeFor[api.Page[api.Person]](), "InventoryEntryPage": reflect.TypeFor[api.Page[api.InventoryEntry]](),
		"DevicePage": reflect.TypeFor[api.Page[api.Device]](), "QuarantinePage": reflect.TypeFor[api.Page[api.Quarantine]](),
		"DenialPage":           reflect.TypeFor[api.Page[api.Denial]](),
		"DeviceSegmentPage":    reflect.TypeFor[api.Page[api.DeviceSegment]](),
		"AppraisalSummaryPage": reflect.TypeFor[api.Page[api.AppraisalSummary]](), "AppraisalSummary": reflect.TypeFor[api.AppraisalSummary](),
		"ReleasePage": reflect.TypeFor[api.Page[api.Release]](), "EventPage": reflect.TypeFor[api.Page[api.Event]](),
		"ReleaseContent": reflect.TypeFor[artifacts.Release](), "AttestationInput": reflect.TypeFor[attestation.Input](),
		"AttestationPolicy": reflect.TypeFor[attestation.Policy](), "QuoteClock": reflect.TypeFor[quote.Clock](),
		"ReferenceBaseline": reflect.TypeFor[reference.Baseline](), "ReferenceValues": reflect.TypeFor[reference.Values](),
		"ReferenceInput": reflect.TypeFor[reference.Input](), "ReferenceShape": reflect.TypeFor[reference.Shape](),
		"ReferencePlatform": reflect.TypeFor[reference.Platform](), "ReferencePCR": reflect.TypeFor[reference.PCR](),
		"ReferenceEvent": reflect.TypeFor[reference.Event](), "ReferenceVariant": reflect.TypeFor[reference.Variant](),
		"BaselinePage": reflect.TypeFor[api.Page[api.Baseline]](), "LearnedGroup": reflect.TypeFor[reference.Group](),
		"PredictionProblem": reflect.TypeFor[reference.Problem](),
	}
	for _, v := range []any{
		api.Status{}, api.OnlineKey{}, api.Ceremony{}, api.CeremonyResult{}, api.PersonRequest{}, api.PersonCreated{}, api.Person{},
		api.InventoryEntry{}, api.EnrollTokenRequest{}, api.EnrollTokenCreated{}, api.Device{}, api.Endorsement{}, api.Quarantine{}, api.Approval{}, api.DenialRequest{}, api.Denial{},
		api.ForgetKeyRequest{}, api.ForgetKey{}, api.KeyVoice{},
		api.QuarantineRequest{}, api.PublishRequest{}, api.Release{}, api.HoldRequest{}, api.Event{}, api.Why{}, api.BootChanges{}, api.BootChange{}, api.Decision{},
		api.SignedReport{}, api.ReportSignature{}, api.Report{}, api.Coverage{}, api.ExcludedDevice{}, api.Appraisal{},
		api.DeviceSegment{}, api.PointSegment{}, api.SegmentPoints{}, api.SegmentPoint{}, api.SegmentBreaker{}, api.ResumeRequest{},
		api.PruneRequest{}, api.RetentionPlan{}, api.RetentionRelease{}, api.RetentionNeed{}, api.RetentionBlob{}, api.RetentionResult{}, wire.Download{},
		api.UpdateRecord{}, api.ReleaseRecord{}, api.ImageMetadata{}, api.PastTargets{}, api.DeviceRecord{}, api.Succession{}, api.ReportLog{}, wire.Problem{},
		api.Baseline{}, api.SignedBaseline{}, api.BaselineRequest{}, api.Learning{}, api.LearningDevice{}, api.DryRun{}, api.DryRunDevice{},
		artifacts.BaselineSet{}, artifacts.BaselineDevice{}, reference.Learned{}, reference.LearnedPCR{}, reference.Disagreeing{}, reference.PredictedPCR{},
		artifacts.Component{}, artifacts.Delta{}, attestation.Verdict{}, attestation.Finding{}, attestation.Accepted{},
		attestation.PCR{}, attestation.Evidence{}, attestation.AK{}, attestation.Binding{}, attestation.Expectation{},
	} {
		out[reflect.TypeOf(v).Name()] = reflect.TypeOf(v)
	}
	return out
}

// requests are decoded strictly and may leave out what has a default.
var requests = []string{"Ceremony", "PersonRequest", "InventoryEntry", "EnrollTokenRequest", "QuarantineRequest", "DenialRequest", "ForgetKeyRequest", "PublishRequest", "HoldRequest", "PruneRequest", "BaselineRequest", "ResumeRequest", "TokenRequest"}

func TestSchemasAreTheGoTypes(t *testing.T) {
	t.Parallel()
	doc := document(t)
	types := schemas()
	plain := []string{"Digest", "DeviceID", "Name", "Lifecycle", "Standing", "Segment", "Role", "Reason", "TokenRequest"}
	for name, ref := range doc.Components.Schemas {
		if types[name] == nil && !slices.Contains(plain, name) {
			t.Errorf("schema %s stands for no Go type", name)
		}
		strict := ref.Value.AdditionalProperties.Has != nil && !*ref.Value.AdditionalProperties.Has
		if strict != slices.Contains(requests, name) {
			t.Errorf("schema %s: additionalProperties false is %v; requests are strict and only they", name, strict)
		}
	}
	for name, typ := range types {
		ref := doc.Components.Schemas[name]
		if ref == nil {
			t.Errorf("no schema for %s", typ)
			continue
		}
		compare(t, name, ref.Value, typ)
	}
}

// compare holds the members of a schema, and which of them are always there, against the fields of the type.
func compare(t *testing.T, name string, schema *openapi3.Schema, typ reflect.Type) {
	t.Helper()
	var members, always []string
	for i := range typ.NumField() {
		field := typ.Field(i)
		tag := strings.Split(field.Tag.Get("json"), ",")
		if tag[0] == "-" {
			continue
		}
		members = append(members, tag[0])
		if len(tag) == 1 {
			always = append(always, tag[0])
		}
		if property := schema.Properties[tag[0]]; property != nil && field.Type != reflect.TypeFor[jsontext.Value]() {
			if got, want := kind(property.Value), kindOf(field.Type); got != want {
				t.Errorf("%s.%s is %s in openapi.yaml, %s in Go", name, tag[0], got, want)
			}
		}
	}
	var got []string
	for property := range schema.Properties {
		got = append(got, property)
	}
	slices.Sort(got)
	slices.Sort(members)
	if diff := cmp.Diff(members, got); diff != "" {
		t.Errorf("members of %s differ (-Go +openapi.yaml):\n%s", name, diff)
	}
	required := slices.Sorted(slices.Values(schema.Required))
	slices.Sort(always)
	if slices.Contains(requests, name) {
		for _, r := range required {
			if !slices.Contains(always, r) {
				t.Errorf("%s.%s is required in openapi.yaml and optional in Go", name, r)
			}
		}
		return
	}
	if diff := cmp.Diff(always, required); diff != "" {
		t.Errorf("required members of %s differ (-Go +openapi.yaml):\n%s", name, diff)
	}
}

func kind(s *openapi3.Schema) string {
	if s.Type == nil || len(*s.Type) == 0 {
		return "any"
	}
	return (*s.Type)[0]
}

func kindOf(t reflect.Type) string {
	text := reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
	switch {
	case t.Kind() == reflect.Pointer:
		return kindOf(t.Elem())
	case t.Implements(text), t.Kind() == reflect.String, t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return "string"
	case t.Kind() == reflect.Slice:
		return "array"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Map, t.Kind() == reflect.Struct:
		return "object"
	}
	return "integer"
}

func TestReasonsOfTheDocumentAreTheClosedSet(t *testing.T) {
	t.Parallel()
	var want []any
	for _, row := range reason.All() {
		want = append(want, string(row.Reason))
	}
	if diff := cmp.Diff(want, document(t).Components.Schemas["Reason"].Value.Enum); diff != "" {
		t.Errorf("reasons differ (-Go +openapi.yaml):\n%s", diff)
	}
}
