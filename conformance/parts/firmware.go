package parts

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/cordon-ota/cordon/attestation/digest"
)

// FirmwareConfig describes the platform that a machine pretends to be.
type FirmwareConfig struct {
	// Version is what the S-CRTM reports, and decides the bytes of the firmware volumes: another version is another
	// platform profile, with another PCR 0. The empty version is that of OVMF, which reports none.
	Version string
}

// Where the firmware volumes lie: the bases of OVMF, with lengths that keep a machine's flash file small.
const (
	peiBase, peiLength = 0x820000, 0x10000
	dxeBase, dxeLength = 0x900000, 0x40000
	imageAddress       = 0x1ce40018 // where the loader puts the UKI
	kernelAddress      = 0x19799000 // where systemd-stub puts the kernel
)

// Variables and device paths as a virtual PC with OVMF has them: boot entries UEFI Misc Device, UiApp and the shell, a
// GPT disk with one EFI system partition, the fallback loader path, and systemd-stub's path for its own kernel.
const (
	bootOrder  = "010000000200"
	boot0001   = "010000001600550045004600490020004d006900730063002000440065007600690063006500000002010c00d041030a000000000101060000017fff04004eac0881119f594d850ee21a522c59b2"
	boot0000   = "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a10406140021aa2c4614760345836e8ab6f46623317fff0400"
	boot0002   = "010000002c00450046004900200049006e007400650072006e0061006c0020005300680065006c006c00000004071400c9bdb87cebf8344faaea3ee4af6516a10406140083a5047c3e9e1c4fad65e05268d0b4d17fff0400"
	gptTable   = "4546492050415254000001005c000000cfbe568b000000000100000000000000ff1f0800000000002200000000000000de1f08000000000011111111222233334444555555555555020000000000000080000000800000004553e562010000000000000028732ac11ff8d211ba4b00a0c93ec93baaaaaaaa2222333344445555555555550008000000000000de1f0800000000000000000000000000450053005000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
	ukiPath    = "02010c00d041030a0000000001010600000104012a00010000000008000000000000df17080000000000aaaaaaaa2222333344445555555555550202040430005c004500460049005c0042004f004f0054005c0042004f004f0054005800360034002e0045004600490000007fff0400"
	kernelPath = "04031400f8d1c555cd04b5468a20e56cbb3052d07fff0400"

	globalVariable = "61dfe48bca93d211aa0d00e098032b8c" // EFI_GLOBAL_VARIABLE
	imageSecurity  = "cbb219d73a3d9645a3bcdad00e67656f" // EFI_IMAGE_SECURITY_DATABASE_GUID
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("parts: a constant is not hex: " + err.Error())
	}
	return b
}

// flashImage makes the machine's firmware volumes: bytes that follow from the version alone.
func flashImage(version string) []byte {
	flash := make([]byte, 0, peiLength+dxeLength)
	for i := uint64(0); len(flash) < peiLength+dxeLength; i++ {
		block := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte("cordon soft firmware "+version), i))
		flash = append(flash, block[:]...)
	}
	return flash
}

// measureFirmware is what happens before the boot application starts: PCR 0, 7, 1, the calling action in PCR 4, the
// separators and the partition table in PCR 5, in the order of OVMF.
func measureFirmware(version string, flash []byte) ([]measurement, error) {
	if len(flash) != peiLength+dxeLength {
		return nil, fmt.Errorf("%w: the flash holds %d bytes of firmware instead of %d", ErrNotBootable, len(flash), peiLength+dxeLength)
	}
	events := []measurement{
		measured(0, evSCRTMVersion, wideText(version)),
		blob(peiBase, flash[:peiLength]),
		blob(dxeBase, flash[peiLength:]),
	}
	global, security := [16]byte(unhex(globalVariable)), [16]byte(unhex(imageSecurity))
	events = append(events,
		measured(7, evVariableDriver, variable(global, "SecureBoot", []byte{0})),
		measured(7, evVariableDriver, variable(global, "PK", nil)),
		measured(7, evVariableDriver, variable(global, "KEK", nil)),
		measured(7, evVariableDriver, variable(security, "db", nil)),
		measured(7, evVariableDriver, variable(security, "dbx", nil)),
		separator(7),
	)
	for _, v := range []struct{ name, content string }{
		{"BootOrder", bootOrder}, {"Boot0001", boot0001}, {"Boot0000", boot0000}, {"Boot0002", boot0002},
	} {
		content := unhex(v.content)
		// For boot variables the digest is over the content alone.
		events = append(events, measurement{1, evVariableBoot, digest.Of(content), variable(global, v.name, content)})
	}
	events = append(events, measured(4, evEFIAction, []byte("Calling EFI Application from Boot Option")))
	for pcr := range 7 {
		events = append(events, separator(pcr))
	}
	return append(events, measured(5, evGPT, unhex(gptTable))), nil
}

func separator(pcr int) measurement { return measured(pcr, evSeparator, make([]byte, 4)) }

// blob is UEFI_PLATFORM_FIRMWARE_BLOB: the log says where the volume lies, the digest is over its bytes.
func blob(base uint64, volume []byte) measurement {
	data := binary.LittleEndian.AppendUint64(nil, base)
	return measurement{0, evFirmwareBlob, digest.Of(volume), binary.LittleEndian.AppendUint64(data, uint64(len(volume)))}
}

// measureUKI is what firmware, systemd-stub 252 and the kernel's EFI stub measure of an image that the firmware starts
// itself with Secure Boot off, up to the end of boot services.
func measureUKI(image []byte) ([]measurement, error) {
	uki, err := Authenticode(image)
	if err != nil {
		return nil, err
	}
	events := []measurement{{4, evBootServices, uki, imageLoad(imageAddress, len(image), unhex(ukiPath))}}
	content := map[string][]byte{}
	for _, name := range []string{".linux", ".osrel", ".cmdline", ".initrd"} {
		b, err := Section(image, name)
		if err != nil {
			return nil, err
		}
		content[name] = b
		// Both events carry the name in UTF-16; the first digest is over the name in ASCII.
		events = append(events,
			measurement{11, evIPL, digest.Of([]byte(name + "\x00")), wideText(name)},
			measurement{11, evIPL, digest.Of(b), wideText(name)})
	}
	kernel, err := Authenticode(content[".linux"])
	if err != nil {
		return nil, err
	}
	return append(events,
		measurement{4, evBootServices, kernel, imageLoad(kernelAddress, len(content[".linux"]), unhex(kernelPath))},
		measurement{9, evEventTag, digest.Of(loadOptions(content[".cmdline"])), tagged(tagLoadOptions, "LOADED_IMAGE::LoadOptions")},
		measurement{9, evEventTag, digest.Of(content[".initrd"]), tagged(tagInitrd, "Linux initrd")},
		measured(5, evEFIAction, []byte("Exit Boot Services Invocation")),
		measured(5, evEFIAction, []byte("Exit Boot Services Returned with Success")),
	), nil
}
