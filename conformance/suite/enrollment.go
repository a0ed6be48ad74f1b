package suite

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"net/http"
	"slices"
	"time"

	"github.com/cordon-ota/cordon/attestation"
	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
	"github.com/cordon-ota/cordon/attestation/identity"
	"github.com/cordon-ota/cordon/attestation/reason"
	"github.com/cordon-ota/cordon/client/wire"
	"github.com/cordon-ota/cordon/conformance/vectors"
)

// enrollment is a case of somebody who must not get in.
type enrollment struct {
	id, name, about string
	reason          reason.Reason
	before          func(*attempt) // spoils round 1
	between         func(*attempt) // spoils round 2
}

// certified gives the device another certificate of the good root.
func certified(change func(*x509.Certificate)) func(*attempt) {
	return func(a *attempt) {
		a.request.EKCertificate = a.conn.run.cfg.Root.Endorse(a.dev.ek.Private.Public(), change)
	}
}

// endorsed gives the device a certificate of the good root for another key.
func endorsed(public any, change func(*x509.Certificate)) func(*attempt) {
	return func(a *attempt) { a.request.EKCertificate = a.conn.run.cfg.Root.Endorse(public, change) }
}

// withAK enrolls an attestation key with another public area.
func withAK(change func(*evidencetest.PublicSpec)) func(*attempt) {
	return func(a *attempt) {
		spec := evidencetest.GoodAK()
		change(&spec)
		a.request.AKPublic = evidencetest.PublicArea(&a.dev.ak.Private.PublicKey, spec)
	}
}

func withTLS(change func(*evidencetest.PublicSpec)) func(*attempt) {
	return func(a *attempt) {
		spec := evidencetest.GoodTLS()
		change(&spec)
		a.request.TLSPublic = evidencetest.PublicArea(&a.dev.tls.Private.PublicKey, spec)
	}
}

// requoted replaces the quote; its signature is good.
func requoted(change func(*evidencetest.QuoteSpec)) func(*attempt) {
	return func(a *attempt) {
		a.quote = func(in *attestation.Input, ak evidencetest.AK) {
			extra := attestation.Transcript(in.Binding)
			spec := evidencetest.QuoteSpec{ExtraData: extra[:], Clock: a.dev.clock, PCRs: map[int]digest.SHA256{}}
			for _, p := range in.Evidence.PCRs {
				spec.PCRs[p.Index] = p.Value
			}
			change(&spec)
			in.Evidence.Quote, in.Evidence.Signature = ak.Quote(spec)
		}
	}
}

func finishing(change func(*wire.ActivateRequest)) func(*attempt) {
	return func(a *attempt) { a.finish = change }
}

// enrollments are all of them that one connection can ask.
func enrollments() []enrollment {
	return slices.Concat(certificateCases(), publicCases(), proofCases())
}

// certificateCases are endorsement certificates that are not good for this.
func certificateCases() []enrollment {
	bad := reason.EKUntrusted
	foreign := func(a *attempt) {
		a.request.EKCertificate = evidencetest.NewCA(rootName).Certify(a.dev.ek.Private, nil).Certificate
	}
	return []enrollment{
		{"N40", "issuer of the same name", "an issuer that calls itself as the trusted one does", bad, foreign, nil},
		{"N40", "its own root beside it", "an untrusted issuer whose certificate comes along", bad, func(a *attempt) {
			ca := evidencetest.NewCA("somebody")
			a.request.EKCertificate, a.request.EKChain = ca.Certify(a.dev.ek.Private, nil).Certificate, [][]byte{ca.Certificate.Raw}
		}, nil},
		{"N40", "a CA", "a certificate of a CA", bad, certified(func(c *x509.Certificate) { c.IsCA = true }), nil},
		{"N40", "key usage of a signer", "a key that signs", bad, certified(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), nil},
		{"N40", "purpose of a TLS client", "a certificate for TLS clients", bad, certified(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), nil},
		{"N40", "purpose of an AK", "a certificate for attestation keys", bad, certified(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		}), nil},
		{"N40", "no name", "a certificate that does not say which TPM it is for", bad, certified(func(c *x509.Certificate) { c.ExtraExtensions = nil }), nil},
		{"N40", "manufacturer without id", "a manufacturer in letters", bad, certified(func(c *x509.Certificate) {
			c.ExtraExtensions[0] = evidencetest.TPMName("TSM", "model", "id:1")
		}), nil},
		{"N40", "not valid yet", "a certificate of the future", bad, certified(func(c *x509.Certificate) { c.NotBefore = time.Now().AddDate(5, 0, 0) }), nil},
		{"N40", "bytes after it", "something behind the certificate that is no padding", bad, func(a *attempt) {
			a.request.EKCertificate = append(bytes.Clone(a.request.EKCertificate), 0, 1)
		}, nil},
		{"N33", "EK of RSA-1024", "an endorsement key of 1024 bits", bad, endorsed(weakRSA(), nil), nil},
		{"N33", "EK on P-224", "an endorsement key on P-224", bad, endorsed(onP224(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), nil},
	}
}

// weakRSA is an RSA-1024 public key that nobody knows the factors of.
func weakRSA() *rsa.PublicKey {
	area := evidencetest.RSAArea(1024)
	return &rsa.PublicKey{N: new(big.Int).SetBytes(area[len(area)-128:]), E: 65537}
}

func onP224() *ecdsa.PublicKey {
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		panic(err) // the system has no randomness
	}
	return &key.PublicKey
}

// publicCases are attestation and TLS keys that are not good for it.
func publicCases() []enrollment {
	bad := reason.AKNotBound
	out := []enrollment{
		{"N26", "scheme left open", "an attestation key whose scheme the caller chooses", bad, withAK(func(s *evidencetest.PublicSpec) { s.Scheme = evidencetest.AlgNull }), nil},
		{"N26", "key with a policy", "an attestation key with an authorisation policy", bad, withAK(func(s *evidencetest.PublicSpec) { s.Policy = make([]byte, 32) }), nil},
		{"N27", "TLS key", "the TLS key as attestation key", bad, func(a *attempt) { a.request.AKPublic = a.request.TLSPublic }, nil},
		{"N33", "SHA-1 Name", "an attestation key whose Name is made with SHA-1", bad, withAK(func(s *evidencetest.PublicSpec) { s.NameAlg = evidencetest.AlgSHA1 }), nil},
		{"N33", "RSA-1024 key", "an attestation key of 1024 bits", bad, func(a *attempt) { a.request.AKPublic = evidencetest.RSAArea(1024) }, nil},
		{"N50", "restricted TLS key", "a TLS key that signs what the TPM makes alone", bad, withTLS(func(s *evidencetest.PublicSpec) { s.Attributes |= identity.Restricted }), nil},
		{"N50", "TLS key from outside", "a TLS key that was not made in its TPM", bad, withTLS(func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.SensitiveDataOrigin }), nil},
		{"N50", "TLS key that may leave", "a TLS key that may leave its TPM", bad, withTLS(func(s *evidencetest.PublicSpec) { s.Attributes &^= identity.FixedTPM }), nil},
		{"N51", "another TLS key on the connection", "the connection uses another key than the request names", bad, func(a *attempt) {
			a.request.TLSPublic = evidencetest.NewTLSKey(rand.Reader).Public
		}, nil},
		{"N10", "attestation key cut", "a public area that ends in the middle", bad, func(a *attempt) { a.request.AKPublic = a.request.AKPublic[:40] }, nil},
	}
	for _, bit := range []struct {
		id, name string
		set      bool
		bits     uint32
	}{
		{"N26", "unrestricted key", false, identity.Restricted}, {"N26", "key that does not sign", false, identity.Sign}, {"N29", "storage key", true, identity.Decrypt},
		{"N30", "duplicable key", false, identity.FixedTPM}, {"N30", "key that may move", false, identity.FixedParent}, {"N31", "imported key", false, identity.SensitiveDataOrigin},
	} {
		out = append(out, enrollment{bit.id, bit.name, "an attestation key with other attributes", bad, withAK(func(s *evidencetest.PublicSpec) {
			if s.Attributes &^= bit.bits; bit.set {
				s.Attributes |= bit.bits
			}
		}), nil})
	}
	return out
}

// proofCases are good keys with a proof that is none.
func proofCases() []enrollment {
	bad := reason.AKNotBound
	return []enrollment{
		{"N46", "wrong secret", "a device that could not open the credential", bad, nil, func(a *attempt) { a.secret = make([]byte, len(a.secret)) }},
		{"N46", "no secret", "a device that leaves the proof away", bad, nil, finishing(func(r *wire.ActivateRequest) { r.HMAC = nil })},
		{"N64", "challenge tampered with", "one bit of the challenge flipped", "", nil, func(a *attempt) { a.offer.Challenge[len(a.offer.Challenge)-1] ^= 1 }},
		{"N62", "own challenge", "a challenge that the device made itself", "", nil, func(a *attempt) { a.offer.Challenge = make([]byte, len(a.offer.Challenge)) }},
		{"N62", "changed request", "a challenge that belongs to another request of the same device", "", nil, finishing(func(r *wire.ActivateRequest) { r.Enroll.HardwareID = "other" })},
		{"N50", "certification of another key", "the attestation key vouches for another key", bad, nil, func(a *attempt) {
			a.certify.Name = evidencetest.NewTLSKey(rand.Reader).Name()
		}},
		{"N50", "certification by another key", "another attestation key vouches for the TLS key", reason.QuoteSignatureInvalid, nil, func(a *attempt) { a.certifier = evidencetest.NewAK(rand.Reader) }},
		{"N50", "certification over something else", "the certification is not over this enrollment", "", nil, func(a *attempt) { a.certify.ExtraData = make([]byte, 32) }},
		{"N50", "quote as certification", "a signed structure of another type", "", nil, func(a *attempt) { a.certify.Type = 0x8018 }},
		{"N50", "no certification", "nothing vouches for the TLS key", "", nil, finishing(func(r *wire.ActivateRequest) { r.Certify, r.CertifySignature = nil, nil })},
		{"N20", "bit of the signature", "one bit of the quote's signature flipped", reason.QuoteSignatureInvalid, nil, func(a *attempt) {
			a.quote = func(in *attestation.Input, _ evidencetest.AK) { in.Evidence.Signature[20] ^= 1 }
		}},
		{"N24", "another device's key", "the quote was signed by another attestation key", reason.QuoteSignatureInvalid, nil, func(a *attempt) {
			a.quote = func(in *attestation.Input, _ evidencetest.AK) {
				in.Evidence.Signature = evidencetest.NewAK(rand.Reader).Sign(in.Evidence.Quote)
			}
		}},
		{"N62", "quote over nothing", "the quote commits to nothing", reason.NonceUnknown, nil, requoted(func(s *evidencetest.QuoteSpec) { s.ExtraData = nil })},
		{"N62", "quote for a poll", "the quote was made for a poll", reason.NonceUnknown, nil, func(a *attempt) {
			a.quote = func(in *attestation.Input, ak evidencetest.AK) {
				b := in.Binding
				b.Purpose = attestation.PurposePoll
				extra := attestation.Transcript(b)
				spec := evidencetest.QuoteSpec{ExtraData: extra[:], Clock: a.dev.clock, PCRs: map[int]digest.SHA256{0: {}}}
				in.Evidence.Quote, in.Evidence.Signature = ak.Quote(spec)
			}
		}},
		{"N32", "quote of another hierarchy", "the quote names another place in the TPM", bad, nil, requoted(func(s *evidencetest.QuoteSpec) {
			s.QualifiedSigner = append([]byte{0, 0x0b}, make([]byte, 32)...)
		})},
		{"N83", "SHA-1 bank", "the quote covers the SHA-1 bank", reason.PCRBankWeak, nil, requoted(func(s *evidencetest.QuoteSpec) {
			s.Banks = []evidencetest.Bank{{Alg: evidencetest.AlgSHA1, Select: []byte{0xff, 0x3a, 0}}}
		})},
		{"N03", "wrong magic", "signed bytes that do not begin with TPM_GENERATED_VALUE", reason.QuoteMalformed, nil, requoted(func(s *evidencetest.QuoteSpec) { s.Magic = 0xff544348 })},
		{"N01", "signed byte after the quote", "one more byte after TPMS_ATTEST, signed with it", reason.QuoteMalformed, nil, func(a *attempt) {
			a.quote = func(in *attestation.Input, ak evidencetest.AK) {
				in.Evidence.Quote = append(in.Evidence.Quote, 0)
				in.Evidence.Signature = ak.Sign(in.Evidence.Quote)
			}
		}},
		{"N100", "another log", "the event log is not the one that the quote commits to", reason.EventlogMismatch, nil, func(a *attempt) {
			a.quote = func(in *attestation.Input, _ evidencetest.AK) { in.Log = evidencetest.NewLog().Bytes() }
		}},
		{"N145", "another connection", "everything is over another TLS connection", "", nil, func(a *attempt) { a.exporter = make([]byte, 32) }},
		{"N12", "member twice", "a member of the Evidence appears twice", "", nil, finishing(func(r *wire.ActivateRequest) {
			r.Evidence = bytes.Replace(r.Evidence, []byte(`"version":1`), []byte(`"version":1,"version":1`), 1)
		})},
	}
}

// ask plays the case with new keys of one TPM that nobody knows.
func (e enrollment) ask(ctx context.Context, r *run, stranger *device) (answer, error) {
	d := *stranger
	d.ak, d.tls = evidencetest.NewAK(rand.Reader), evidencetest.NewTLSKey(rand.Reader)
	conn, err := r.connect(ctx, d.tls)
	if err != nil {
		return answer{}, err
	}
	defer conn.close()
	a := d.start(conn, "")
	if e.before != nil {
		e.before(a)
	}
	got, err := a.round1(ctx)
	if err != nil || got.status != http.StatusOK {
		return got, err
	}
	if e.between != nil {
		e.between(a)
	}
	return a.round2(ctx)
}

// enrollments asks them all and enrolls the first good device, which others then try to be.
func (r *run) enrollments(ctx context.Context) (victim *device, err error) {
	stranger := r.newDevice()
	for _, e := range enrollments() {
		got, err := e.ask(ctx, r, stranger)
		if err != nil {
			return nil, err
		}
		r.add(refusing(e.id, e.name, e.about, e.reason).answered(got))
	}
	return r.takeovers(ctx, stranger)
}

// takeovers are attempts to be a device that is enrolled, or to enroll twice with one proof.
func (r *run) takeovers(ctx context.Context, stranger *device) (*device, error) {
	victim := r.newDevice()
	victim.values = r.cfg.valuesOrNone()
	token, _ := r.token()
	lifecycle, err := r.enroll(ctx, victim, token)
	row := Row{Case: "P1", Name: "good enrollment", About: "a genuine device with nothing wrong", Road: "enroll", Outcome: vectors.Affirmed, Got: vectors.Affirmed, Judgement: vectors.Right, Note: lifecycle}
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		row.Got, row.Judgement, row.Note = vectors.Refused, vectors.WronglyRefused, err.Error()
		r.add(row)
		return nil, nil
	}
	r.add(row)
	r.report.Devices = append(r.report.Devices, Device{ID: victim.id, Used: "what is not authentic or not fresh"})
	for _, c := range []struct {
		id, name, about string
		reason          reason.Reason
		change          func(d *device)
	}{
		{"N42", "the certificate of another device", "somebody with another TPM shows the certificate of an enrolled device", "", func(d *device) { d.ek.Certificate = victim.ek.Certificate }},
		{"N44", "the attestation key of another device", "another TPM, and the attestation key of an enrolled device", "", func(d *device) { d.ak = victim.ak }},
		{"N51", "the TLS key of another device", "another TPM, and the TLS key of an enrolled device", "", func(d *device) { d.tls = victim.tls }},
		{"N43", "another attestation key", "the TPM of an enrolled device with an attestation key that nobody vouches for", reason.AKNotBound, func(d *device) {
			d.ek, d.id = victim.ek, victim.id
		}},
	} {
		d := *stranger
		d.ak, d.tls = evidencetest.NewAK(rand.Reader), evidencetest.NewTLSKey(rand.Reader)
		c.change(&d)
		got, err := r.foreign(ctx, &d)
		if err != nil {
			return nil, err
		}
		r.add(refusing(c.id, c.name, c.about, c.reason).answered(got))
	}
	return victim, r.twice(ctx, victim)
}

// foreign enrolls d, which is not what it says.
func (r *run) foreign(ctx context.Context, d *device) (answer, error) {
	conn, err := r.connect(ctx, d.tls)
	if err != nil {
		return answer{}, err
	}
	defer conn.close()
	a := d.start(conn, "")
	got, err := a.round1(ctx)
	if err != nil || got.status != http.StatusOK {
		return got, err
	}
	return a.round2(ctx)
}

// twice uses one challenge twice: after a good answer, and after a wrong one.
func (r *run) twice(ctx context.Context, d *device) error {
	for _, c := range []struct {
		id, name, about string
		first           func(*attempt)
	}{
		{"N45", "challenge twice", "an answer to a challenge that was answered already", func(*attempt) {}},
		{"N46", "wrong secret, then the right one", "a second guess at one challenge", func(a *attempt) {
			a.finish = func(q *wire.ActivateRequest) { q.HMAC = make([]byte, 32) }
		}},
	} {
		a := d.start(d.conn, "")
		if got, err := a.round1(ctx); err != nil || got.status != http.StatusOK {
			return err
		}
		c.first(a)
		if _, err := a.round2(ctx); err != nil {
			return err
		}
		a.finish = nil
		got, err := a.round2(ctx)
		if err != nil {
			return err
		}
		r.add(refusing(c.id, c.name, c.about, "").answered(got))
	}
	return nil
}
