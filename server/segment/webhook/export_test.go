package webhook

// Read takes an answer apart.
var Read = read

// MaxAnswer bounds an answer in bytes.
const MaxAnswer = maxAnswer
