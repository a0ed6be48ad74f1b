package radius

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	wire "layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2866"
	"layeh.com/radius/rfc2868"
	"layeh.com/radius/rfc2869"
	"layeh.com/radius/rfc3162"
	"layeh.com/radius/rfc3576"

	"github.com/cordon-ota/cordon/server/fleet"
)

// errPacket is wrapped by everything that is wrong about a packet.
var errPacket = errors.New("RADIUS packet is not acceptable")

const (
	headerLen = 20 // code, identifier, length, authenticator
	macLen    = md5.Size
)

// request is what a dynamic authorization request says.
type request struct {
	code       wire.Code
	station    string // Calling-Station-Id
	attributes Attributes
	class      string
	nasID      string
	nasAddress netip.Addr
	at         time.Time
}

// encode builds the packet: Message-Authenticator first, computed over the packet with a zero Request Authenticator (RFC
// 5176 section 3.4), then the Request Authenticator over all of it.
func (r request) encode(identifier byte, secret []byte) ([]byte, error) {
	p := &wire.Packet{Code: r.code, Identifier: identifier, Secret: secret}
	err := errors.Join(
		rfc2869.MessageAuthenticator_Set(p, make([]byte, macLen)),
		rfc2865.CallingStationID_SetString(p, r.station),
		rfc2869.EventTimestamp_Set(p, r.at),
	)
	if r.nasID != "" {
		err = errors.Join(err, rfc2865.NASIdentifier_SetString(p, r.nasID))
	}
	switch {
	case r.nasAddress.Is4():
		err = errors.Join(err, rfc2865.NASIPAddress_Set(p, net.IP(r.nasAddress.AsSlice())))
	case r.nasAddress.Is6():
		err = errors.Join(err, rfc3162.NASIPv6Address_Set(p, net.IP(r.nasAddress.AsSlice())))
	}
	if r.attributes.FilterID != "" {
		err = errors.Join(err, rfc2865.FilterID_SetString(p, r.attributes.FilterID))
	}
	if r.attributes.VLAN != "" {
		const untagged = 0
		err = errors.Join(err,
			rfc2868.TunnelType_Set(p, untagged, tunnelVLAN),
			rfc2868.TunnelMediumType_Set(p, untagged, rfc2868.TunnelMediumType_Value_IEEE802),
			rfc2868.TunnelPrivateGroupID_SetString(p, untagged, r.attributes.VLAN))
	}
	if r.class != "" {
		err = errors.Join(err, rfc2865.Class_SetString(p, r.class))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot build the request: %w", err)
	}
	b, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("cannot build the request: %w", err)
	}
	mac, err := messageAuthenticator(b, [16]byte{}, secret)
	if err != nil {
		return nil, err
	}
	copy(b[headerLen+2:], mac) // it is the first attribute
	copy(b[4:headerLen], authenticator(b, [16]byte{}, secret))
	return b, nil
}

const tunnelVLAN rfc2868.TunnelType = 13 // RFC 3580 section 3.31

// authenticator is the MD5 of the packet with the given bytes in place of its authenticator, and the secret.
func authenticator(b []byte, field [16]byte, secret []byte) []byte {
	h := md5.New()
	h.Write(b[:4])
	h.Write(field[:])
	h.Write(b[headerLen:])
	h.Write(secret)
	return h.Sum(nil)
}

// messageAuthenticator is the HMAC-MD5 of the packet with field as authenticator and a zero Message-Authenticator; nil if
// the packet has none. The packet's attributes were checked to be well formed, or are our own.
func messageAuthenticator(b []byte, field [16]byte, secret []byte) ([]byte, error) {
	at, err := findMessageAuthenticator(b)
	if err != nil || at == 0 {
		return nil, err
	}
	h := hmac.New(md5.New, secret)
	h.Write(b[:4])
	h.Write(field[:])
	h.Write(b[headerLen:at])
	h.Write(make([]byte, macLen))
	h.Write(b[at+macLen:])
	return h.Sum(nil), nil
}

// findMessageAuthenticator returns where the value begins, 0 if there is none.
func findMessageAuthenticator(b []byte) (int, error) {
	found := 0
	for i := headerLen; i < len(b); i += int(b[i+1]) {
		if len(b)-i < 2 || b[i+1] < 2 || i+int(b[i+1]) > len(b) {
			return 0, fmt.Errorf("%w: an attribute is cut off", errPacket)
		}
		if wire.Type(b[i]) != rfc2869.MessageAuthenticator_Type {
			continue
		}
		if found != 0 || b[i+1] != 2+macLen {
			return 0, fmt.Errorf("%w: Message-Authenticator is not what it should be", errPacket)
		}
		found = i + 2
	}
	return found, nil
}

// parse checks the frame and returns exactly the packet, without what follows its length. Nothing in it is authenticated yet.
func parse(b []byte) ([]byte, *wire.Packet, error) {
	if len(b) < headerLen {
		return nil, nil, fmt.Errorf("%w: it is too short", errPacket)
	}
	length := int(binary.BigEndian.Uint16(b[2:4]))
	if length < headerLen || length > len(b) || length > wire.MaxPacketLength {
		return nil, nil, fmt.Errorf("%w: its length is wrong", errPacket)
	}
	b = b[:length]
	p, err := wire.Parse(b, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errPacket, err)
	}
	return b, p, nil
}

// checkMessageAuthenticator refuses a wrong one, and a missing one if it is demanded.
func checkMessageAuthenticator(b []byte, field [16]byte, secret []byte, demanded bool) error {
	want, err := messageAuthenticator(b, field, secret)
	if err != nil {
		return err
	}
	if want == nil {
		if demanded {
			return fmt.Errorf("%w: it has no Message-Authenticator", errPacket)
		}
		return nil
	}
	at, err := findMessageAuthenticator(b)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, b[at:at+macLen]) != 1 {
		return fmt.Errorf("%w: its Message-Authenticator is wrong", errPacket)
	}
	return nil
}

// reply is the answer of the NAS.
type reply struct {
	code  wire.Code
	cause rfc3576.ErrorCause // 0 if it named none
}

// readReply checks that b answers the request, whole and by somebody who knows the secret.
func readReply(b, asked, secret []byte, strict bool) (reply, error) {
	b, p, err := parse(b)
	if err != nil {
		return reply{}, err
	}
	field := [16]byte(asked[4:headerLen])
	switch {
	case p.Identifier != asked[1]:
		return reply{}, fmt.Errorf("%w: it answers another request", errPacket)
	case subtle.ConstantTimeCompare(authenticator(b, field, secret), b[4:headerLen]) != 1:
		return reply{}, fmt.Errorf("%w: its Response Authenticator is wrong", errPacket)
	}
	if err := checkMessageAuthenticator(b, field, secret, strict); err != nil {
		return reply{}, err
	}
	ack, nak := wire.CodeCoAACK, wire.CodeCoANAK
	if wire.Code(asked[0]) == wire.CodeDisconnectRequest {
		ack, nak = wire.CodeDisconnectACK, wire.CodeDisconnectNAK
	}
	if p.Code != ack && p.Code != nak {
		return reply{}, fmt.Errorf("%w: code %d answers something else", errPacket, p.Code)
	}
	return reply{code: p.Code, cause: rfc3576.ErrorCause_Get(p)}, nil
}

// Statuses of a record.
const (
	statusStart   = rfc2866.AcctStatusType_Value_Start
	statusStop    = rfc2866.AcctStatusType_Value_Stop
	statusInterim = rfc2866.AcctStatusType_Value_InterimUpdate
	statusOn      = rfc2866.AcctStatusType_Value_AccountingOn
	statusOff     = rfc2866.AcctStatusType_Value_AccountingOff
)

// record is one accounting record, authenticated.
type record struct {
	status  rfc2866.AcctStatusType
	station string    // link address as in segment.Target; "" in records about the NAS itself
	event   time.Time // whole seconds, by the clock of the NAS; zero if it does not say
	filters []string
	vlans   []string
	class   string
	nas     string // NAS-Identifier, or what it says its address is
	digest  [16]byte
}

// readAccounting checks an Accounting-Request and returns its record and the response to send. A record that says nothing
// about a known kind of station is answered as well: it was received.
func readAccounting(b, secret []byte) (record, []byte, error) {
	b, p, err := parse(b)
	switch {
	case err != nil:
		return record{}, nil, err
	case p.Code != wire.CodeAccountingRequest:
		return record{}, nil, fmt.Errorf("%w: code %d is no accounting", errPacket, p.Code)
	case subtle.ConstantTimeCompare(authenticator(b, [16]byte{}, secret), b[4:headerLen]) != 1:
		return record{}, nil, fmt.Errorf("%w: its Request Authenticator is wrong (the shared secret?)", errPacket)
	}
	if err := checkMessageAuthenticator(b, [16]byte{}, secret, false); err != nil {
		return record{}, nil, err
	}
	r := record{status: rfc2866.AcctStatusType_Get(p), digest: p.Authenticator, nas: rfc2865.NASIdentifier_GetString(p)}
	if r.nas == "" {
		r.nas = rfc2865.NASIPAddress_Get(p).String()
	}
	if at, err := rfc2869.EventTimestamp_Lookup(p); err == nil {
		r.event = at
	}
	r.station = parseMAC(rfc2865.CallingStationID_GetString(p))
	if r.filters, err = rfc2865.FilterID_GetStrings(p); err != nil {
		return record{}, nil, fmt.Errorf("%w: %w", errPacket, err)
	}
	if _, r.vlans, err = rfc2868.TunnelPrivateGroupID_GetStrings(p); err != nil {
		return record{}, nil, fmt.Errorf("%w: %w", errPacket, err)
	}
	for _, a := range p.Attributes {
		if a.Type == rfc2865.Class_Type && strings.HasPrefix(string(a.Attribute), classPrefix) {
			r.class = string(a.Attribute)
		}
	}
	return r, respond(b, p, secret), nil
}

// respond builds the Accounting-Response; Proxy-State is handed back (RFC 2865 section 5.33).
func respond(asked []byte, p *wire.Packet, secret []byte) []byte {
	b := []byte{byte(wire.CodeAccountingResponse), p.Identifier, 0, 0}
	b = append(b, make([]byte, 16)...)
	for _, a := range p.Attributes {
		if a.Type == rfc2865.ProxyState_Type {
			b = append(append(b, byte(a.Type), byte(2+len(a.Attribute))), a.Attribute...)
		}
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[4:], authenticator(b, [16]byte(asked[4:headerLen]), secret))
	return b
}

// classPrefix marks a Class of ours: cordon/1 device segment epoch.
const classPrefix = "cordon/1 "

func classOf(device string, m mark) string {
	return fmt.Sprintf("%s%s %s %d", classPrefix, device, m.segment, m.epoch)
}

// markOf reads a Class back; ok is false if it is not one for this device.
func markOf(class, device string) (m mark, ok bool) {
	rest, ok := strings.CutPrefix(class, classPrefix+device+" ")
	if !ok {
		return mark{}, false
	}
	where, number, _ := strings.Cut(rest, " ")
	epoch, err := strconv.ParseInt(number, 10, 64)
	m = mark{segment: fleet.Segment(where), epoch: epoch}
	return m, err == nil && epoch > 0 && (m.segment == fleet.Restricted || m.segment == fleet.Production) && class == classOf(device, m)
}

// parseMAC reads a Calling-Station-Id in any usual format, also with a port or network name behind it; "" if it is none.
func parseMAC(text string) string {
	var digits []byte
	for i := 0; i < len(text) && len(digits) < 12; i++ {
		switch c := text[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			digits = append(digits, c)
		case c >= 'A' && c <= 'F':
			digits = append(digits, c-'A'+'a')
		case text[i] == '-' || text[i] == ':' || text[i] == '.':
		default:
			return ""
		}
	}
	if len(digits) != 12 {
		return ""
	}
	var parts []string
	for i := 0; i < 12; i += 2 {
		parts = append(parts, string(digits[i:i+2]))
	}
	return strings.Join(parts, ":")
}

// formatMAC writes a link address (lower case, colons) in one of the formats; "" if either is unknown.
func formatMAC(mac, format string) string {
	plain := strings.ReplaceAll(parseMAC(mac), ":", "")
	if plain == "" {
		return ""
	}
	group := func(n int, sep string) string {
		var parts []string
		for i := 0; i < len(plain); i += n {
			parts = append(parts, plain[i:i+n])
		}
		return strings.Join(parts, sep)
	}
	switch format {
	case FormatHyphenUpper:
		return strings.ToUpper(group(2, "-"))
	case FormatHyphenLower:
		return group(2, "-")
	case FormatColonUpper:
		return strings.ToUpper(group(2, ":"))
	case FormatColonLower:
		return group(2, ":")
	case FormatDots:
		return group(4, ".")
	case FormatPlainUpper:
		return strings.ToUpper(plain)
	case FormatPlainLower:
		return plain
	}
	return ""
}

// randomByte is the first identifier of an exchange.
func randomByte() byte {
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return b[0]
}
