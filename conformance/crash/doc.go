// Package crash kills cordon's programs at every named step, as a power cut would, and looks at what is left.
//
// Its tests build server, signer and agent with the crash points of package artifacts/crash, let each of them die at each
// point, start the program again and play the next clean cycle, which must succeed. After every crash the invariants are
// checked from outside: signed metadata verifies and never goes back, the events of the audit log have no gap and none of
// them is lost or doubled, and what the slots and the state directory of a device hold is whole. A point that is never
// reached fails the test: the list is closed, and none of it is skipped.
//
// Nobody trusts this package.
package crash
