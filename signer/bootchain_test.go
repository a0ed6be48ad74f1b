package main_test

import (
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cordon-ota/cordon/attestation/digest"
	"github.com/cordon-ota/cordon/attestation/eventlog"
	"github.com/cordon-ota/cordon/attestation/evidencetest"
)

// loader FILE VERSION: a small systemd-boot.
func writeLoader(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), buildPE([]part{{".sdmagic", []byte("#### LoaderInfo: systemd-boot " + args[1] + " ####\x00")}}), 0o644))
}

// grublog FILE COMMAND LOGGED: the log of a machine that GRUB booted with a command, of which the log tells otherwise if
// LOGGED differs.
func writeGRUBLog(ts *testscript.TestScript, _ bool, args []string) {
	l := evidencetest.NewLog()
	program := func(name string) { l.Add(4, eventlog.TypeEFIApplication, digest.Of([]byte(name)), make([]byte, 32)) }
	file := func(name string) { l.Add(9, eventlog.TypeIPL, digest.Of([]byte(name)), []byte(name+"\x00")) }
	l.AddHashed(4, eventlog.TypeEFIAction, []byte("Calling EFI Application from Boot Option"))
	l.AddHashed(4, eventlog.TypeSeparator, make([]byte, 4))
	program("shim")
	program("grub")
	file("(hd0,gpt1)/boot/grub/grub.cfg")
	l.Add(8, eventlog.TypeIPL, digest.Of([]byte(args[1])), []byte("grub_cmd: "+args[2]+"\x00"))
	file("/boot/vmlinuz")
	program("kernel")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), l.Bytes(), 0o644))
}
