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
	base := adminTLS(cert)
	base.ClientAuth = tls.RequestClientCert
	served := base.Clone()
	served.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return ticketed(base, now), nil }
	return served
}

// ticketed is the configuration of one connection. A resumed session gets new tickets, too; they keep the time of the
// full handshake, or a session could be resumed for ever. crypto/tls does not hand that time from the old ticket to the
// new one, so it is kept here, between UnwrapSession and WrapSession of the same handshake.
func ticketed(base *tls.Config, now func() time.Time) *tls.Config {
	c := base.Clone()
	shown := now().Unix()
	c.WrapSession = func(_ tls.ConnectionState, s *tls.SessionState) ([]byte, error) {
		s.Extra = append(s.Extra, binary.BigEndian.AppendUint64([]byte(ticketMark), uint64(shown)))
		return base.EncryptTicket(tls.ConnectionState{}, s)
	}
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		s, err := base.DecryptTicket(ticket, cs)
		if err != nil || s == nil {
			return nil, nil // a full handshake follows
		}
		at := issued(s.Extra)
		if at == 0 || now().Unix()-at > int64(ticketLife/time.Second) {
			return nil, nil
		}
		shown = min(shown, at)
		return s, nil
	}
	return c
}

// ticketMark stands before the time of the full handshake in a ticket's extra data.
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
