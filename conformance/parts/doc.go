// Package parts starts and stops the real components that tests, the demo and the conformance machine run against:
// software TPMs (swtpm), PostgreSQL, S3 servers (versitygw, MinIO), a Sigstore (Fulcio, Rekor v2, timestamp authority), the
// independent clients cosign, sigstore-js and tuf-js, networks of namespaces, a switch made
// of FreeRADIUS and nftables, unified kernel images made of a Debian kernel and systemd-stub, and the
// soft machine, which measures the real bytes of a slot into its TPM and into a TCG event log as a direct UKI boot does.
//
// It promises that every process it starts ends with the process that started it, also after a crash, that nothing it
// builds is pinned or downloaded twice, and that a missing component is an error naming the apt line that brings it.
// It refuses to start packaged daemons, to touch a running installation, and to stand in for a part that is absent.
// Two stand-ins are named as such where they lie: the CT log keeps no tree (ctfront.go), and the CI's token service
// authenticates nobody (oidc.go).
//
// Its measuring code shares nothing with attestation/reference and attestation/eventlog, because it is the oracle that
// their tests are held against. It imports nothing of server or client; any _test package may import it. Nobody trusts
// it in production: it is test equipment, and the evidence it makes comes from an emulated TPM.
package parts
