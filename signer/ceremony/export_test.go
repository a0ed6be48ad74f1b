package ceremony

// DecodeSignature is the parser of signature files, for fuzzing.
func DecodeSignature(b []byte) error { _, err := decodeSignature(b); return err }
