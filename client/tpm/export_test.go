package tpm

// ReadResponse opens the parser of raw responses to the fuzzer.
var ReadResponse = readResponse

// Typed opens the mapping of the TPM's codes, which no command of this package meets: its keys have noDA.
var Typed = typed
