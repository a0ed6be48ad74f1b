package app

import (
	"crypto/tls"
	"encoding/binary"
	"time"
)

// ticketLife bounds TLS session tickets: a resumed session authenticates with a key that was shown at most this long ago.
// Every request authorises from current state in any case.
const ticketLife = time.Hour

// deviceTLS asks for a client key but not for a chain: the device API knows devices by their key alone.
func deviceTLS(cert tls.Certificate, now func() time.Time) *tls.Config {
	c := adminTLS(cert)
	c.ClientAuth = tls.RequestClientCert
	c.WrapSession = func(_ tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
		if issued(s.Extra) == 0 {
			s.Extra = append(s.Extra, binary.BigEndian.AppendUint64([]byte(ticketMark), uint64(now().Unix())))
		}
		return c.EncryptTicket(tls.ConnectionState{}, s)
	}
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		s, err := c.DecryptTicket(ticket, cs)
		if err != nil || s == nil {
			return nil, nil // a full handshake follows
		}
		if at := issued(s.Extra); at == 0 || now().Unix()-at > int64(ticketLife/time.Second) {
			return nil, nil
		}
		return s, nil
	}
	return c
}

// ticketMark stands before the issue time in a ticket's extra data.
const ticketMark = "cordon-ticket-1:"

func issued(extra [][]byte) int64 {
	for _, e := range extra {
		if len(e) == len(ticketMark)+8 && string(e[:len(ticketMark)]) == ticketMark {
			return int64(binary.BigEndian.Uint64(e[len(ticketMark):]))
		}
	}
	return 0
}

func adminTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
}
