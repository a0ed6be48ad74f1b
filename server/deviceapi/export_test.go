package deviceapi

// ParseRange is parseRange.
var ParseRange = parseRange
