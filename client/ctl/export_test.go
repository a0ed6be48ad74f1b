package main

import "github.com/cordon-ota/cordon/attestation"

// What tests of the program see of it.
var (
	Main         = main
	DecodeConfig = decodeConfig
	Plain        = plain
	ShowWhy      = showWhy
	DecodeBundle = decodeBundle

	ErrNothingExpected = errNothingExpected
)

// Under is an Input as another policy would have it.
func Under(in attestation.Input, policy []byte) (attestation.Input, error) {
	q := question{}
	q.record.Input = in
	return q.under(policy)
}
