package parts

// Arch is the architecture of a virtual machine, as Go and Debian name it. The empty one is AMD64.
type Arch string

// Architectures.
const (
	AMD64 Arch = "amd64" // a PC: QEMU's q35, OVMF
	ARM64 Arch = "arm64" // QEMU's virt, AAVMF; its software is fetched, not installed
)

// board is what differs between machines of two architectures.
type board struct {
	packages   []string // Debian packages of this host
	qemu       string
	machine    []string // QEMU's options for board, processor and TPM
	secure     []string // added for firmware that enforces Secure Boot
	code, vars string   // firmware, and its variables without keys
	secureCode string
	objcopy    string // joins sections to the stub
	bootFile   string
	cmdline    string
}

func (a Arch) board() board {
	if a == ARM64 {
		return board{
			packages: []string{"qemu-system-arm", "qemu-efi-aarch64"}, qemu: "qemu-system-aarch64",
			// Pointer authentication with the architecture's own cipher costs an emulator half of its time.
			machine: []string{"-machine", "virt", "-cpu", "max,pauth-impdef=on", "-device", "tpm-tis-device,tpmdev=tpm0"},
			code:    aavmfCode, vars: aavmfVars, secureCode: aavmfCode,
			objcopy: "aarch64-linux-gnu-objcopy", bootFile: "EFI/BOOT/BOOTAA64.EFI", cmdline: "console=ttyAMA0 quiet loglevel=4 panic=3",
		}
	}
	return board{
		packages: []string{"qemu-system-x86", "ovmf"}, qemu: "qemu-system-x86_64",
		machine: []string{"-machine", "q35,smm=off", "-cpu", "qemu64,+rdrand", "-device", "tpm-tis,tpmdev=tpm0"},
		secure:  []string{"-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"},
		code:    ovmfCode, vars: ovmfVars, secureCode: ovmfSecureCode,
		objcopy: "objcopy", bootFile: "EFI/BOOT/BOOTX64.EFI", cmdline: "console=ttyS0,115200 quiet loglevel=4 panic=3 no_timer_check",
	}
}

// BootFile is the path on an EFI system partition of what the firmware starts when nobody told it otherwise.
func (a Arch) BootFile() string { return a.board().bootFile }

// CommandLine is the kernel's, with the serial console.
func (a Arch) CommandLine() string { return a.board().cmdline }
