// Package tlog is the transparency log of the audit events as everybody outside sees it: the policy that the offline
// targets role signs for it (witness/log.json), its checkpoints, and the Merkle tree of RFC 6962 under them. The server
// publishes with it, witnesses and auditors check with it, so that both sides cannot mean two different things.
//
// A leaf of the tree is the exact bytes of one audit event; event number N has leaf index N-1. A checkpoint
// (C2SP tlog-checkpoint, a signed note) names size and root; witnesses add cosignatures (C2SP tlog-cosignature v1), and
// each vouches that it has never cosigned another history of that log.
//
// The package reads no clock, no network and no disk, and it holds no key. It refuses whatever is not in the one byte
// form that cordon writes. Every parser and every proof is bounded by its input and total. Trusted: whoever holds the log
// key can publish history; whoever also holds a quorum of witness keys can publish two.
package tlog

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// Limits of everything that is read here.
const (
	MaxSize            = 1<<53 - 1 // leaves of one log: the largest integer that every JSON reader keeps exact
	MaxLeafBytes       = 65535     // C2SP tlog-tiles: an entry has a 16 bit length
	MaxCheckpointBytes = 32 << 10
	MaxPolicyBytes     = 64 << 10
	MaxWitnesses       = 16
	MaxProofHashes     = 64 // of a consistency proof
)

// ErrProof is returned for a proof that does not lead to the root, or that has a hash too many or too few.
var ErrProof = errors.New("log proof does not hold")

// LeafHash is the hash of a leaf (RFC 6962 section 2.1): SHA-256(0x00 || leaf).
func LeafHash(leaf []byte) digest.SHA256 {
	b := make([]byte, 0, 1+len(leaf))
	return sha256.Sum256(append(append(b, 0), leaf...))
}

// NodeHash is the hash of an inner node: SHA-256(0x01 || left || right).
func NodeHash(left, right digest.SHA256) digest.SHA256 {
	var b [1 + 2*digest.Size]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+digest.Size:], right[:])
	return sha256.Sum256(b[:])
}

// EmptyRoot is the root of the tree without leaves: SHA-256 of nothing.
func EmptyRoot() digest.SHA256 { return digest.Of(nil) }

// VerifyConsistency proves that the tree of oldSize leaves is the beginning of the tree of newSize leaves. It returns
// ErrProof if it is not proven. From the empty tree there is nothing to prove, and only the empty proof holds.
func VerifyConsistency(oldSize, newSize uint64, oldRoot, newRoot digest.SHA256, hashes []digest.SHA256) error {
	if oldSize == 0 && oldRoot != EmptyRoot() {
		return fmt.Errorf("%w: the root %s is not that of the empty tree", ErrProof, oldRoot)
	}
	if newSize > MaxSize {
		return fmt.Errorf("%w: size %d is too large", ErrProof, newSize)
	}
	plain := make([][]byte, len(hashes))
	for i := range hashes {
		plain[i] = hashes[i][:]
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, oldSize, newSize, plain, oldRoot[:], newRoot[:]); err != nil {
		return fmt.Errorf("%w: from %d to %d leaves: %v", ErrProof, oldSize, newSize, err)
	}
	return nil
}
