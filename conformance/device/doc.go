// Package device is the machine under test: a virtual PC, or a board of arm64, with real UEFI firmware, a real TPM 2.0 in
// software, a real Linux as Debian ships it, and the agent of this repository as the only thing on it that talks to the world.
//
// A test makes images with BuildImage, a machine with New, switches it on with Start, and reads with Wait what the machine
// says on its serial line; between two lives it may edit the disk as somebody does who holds it, copy the machine or its parts
// with Save, Load and Clone, or put another TPM in. Fleet puts a server after its ceremony around it.
//
// It promises that a machine ends with the test or program that started it, at the latest at its deadline, and that one
// runs at a time. It refuses hardware virtualisation, under which this firmware does not run everywhere, and it stands in
// for no part: what is missing is installed, or named with the line that installs it. Nobody trusts it in production.
package device
