package backup

// DecodeRows is decodeRows, for its fuzz target.
var DecodeRows = decodeRows
