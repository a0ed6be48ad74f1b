package device

// Parse reads a transcript that arrives in two pieces.
func Parse(first, second []byte) []Line {
	var p parser
	p.add(first)
	p.add(second)
	return p.lines
}
