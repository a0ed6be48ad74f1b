package keyless

// ParseGitHub reads the answer of GitHub's token service.
var ParseGitHub = parseGitHub
