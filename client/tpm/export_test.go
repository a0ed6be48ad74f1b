package tpm

// ReadResponse opens the parser of raw responses to the fuzzer.
var ReadResponse = readResponse
