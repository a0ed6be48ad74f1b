package radius

import "time"

// ReadAccounting reads one accounting packet; its response is nil when it is refused.
func ReadAccounting(b, secret []byte) (response []byte, err error) {
	_, response, err = readAccounting(b, secret)
	return response, err
}

// ReadReply reads an answer to asked.
func ReadReply(b, asked, secret []byte, strict bool) error {
	_, err := readReply(b, asked, secret, strict)
	return err
}

// Request is an encoded CoA-Request.
func Request(station string, a Attributes, secret []byte) ([]byte, error) {
	return request{code: 43, station: station, attributes: a, class: classOf("device", mark{"restricted", 7}), at: time.Unix(1700000000, 0)}.encode(9, secret)
}

// ParseMAC and FormatMAC are the two directions of a link address.
func ParseMAC(text string) string         { return parseMAC(text) }
func FormatMAC(mac, format string) string { return formatMAC(mac, format) }

// ReadClass reads a Class back and writes it again.
func ReadClass(class, device string) (again string, ok bool) {
	m, ok := markOf(class, device)
	return classOf(device, m), ok
}
