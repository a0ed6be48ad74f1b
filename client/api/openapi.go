package api

import _ "embed"

//go:embed openapi.yaml
var openAPI []byte

// OpenAPI returns the OpenAPI 3 description of the admin API. Tests hold every route and answer of the server against it.
func OpenAPI() []byte { return openAPI }
