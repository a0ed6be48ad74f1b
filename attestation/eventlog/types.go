package eventlog

import "fmt"

// Event types of the TCG PC Client Platform Firmware Profile, section 10.4.1, that this package speaks about.
const (
	TypePostCode          uint32 = 0x00000001
	TypeNoAction          uint32 = 0x00000003
	TypeSeparator         uint32 = 0x00000004
	TypeAction            uint32 = 0x00000005
	TypeEventTag          uint32 = 0x00000006
	TypeSCRTMContents     uint32 = 0x00000007
	TypeSCRTMVersion      uint32 = 0x00000008
	TypeIPL               uint32 = 0x0000000D
	TypeEFIVariableConfig uint32 = 0x80000001
	TypeEFIVariableBoot   uint32 = 0x80000002
	TypeEFIApplication    uint32 = 0x80000003
	TypeEFIBootDriver     uint32 = 0x80000004
	TypeEFIRuntimeDriver  uint32 = 0x80000005
	TypeEFIGPT            uint32 = 0x80000006
	TypeEFIAction         uint32 = 0x80000007
	TypeEFIFirmwareBlob   uint32 = 0x80000008
	TypeEFIHandoffTables  uint32 = 0x80000009
	TypeEFIFirmwareBlob2  uint32 = 0x8000000A
	TypeEFIHandoffTables2 uint32 = 0x8000000B
	TypeEFIVariableBoot2  uint32 = 0x8000000C
	TypeEFIHCRTM          uint32 = 0x80000010
	TypeEFIAuthority      uint32 = 0x800000E0
)

// typeNames is the table behind TypeName.
var typeNames = map[uint32]string{
	0x00000000: "EV_PREBOOT_CERT", TypePostCode: "EV_POST_CODE", 0x00000002: "EV_UNUSED",
	TypeNoAction: "EV_NO_ACTION", TypeSeparator: "EV_SEPARATOR", TypeAction: "EV_ACTION",
	TypeEventTag: "EV_EVENT_TAG", TypeSCRTMContents: "EV_S_CRTM_CONTENTS", TypeSCRTMVersion: "EV_S_CRTM_VERSION",
	0x00000009: "EV_CPU_MICROCODE", 0x0000000A: "EV_PLATFORM_CONFIG_FLAGS", 0x0000000B: "EV_TABLE_OF_DEVICES",
	0x0000000C: "EV_COMPACT_HASH", TypeIPL: "EV_IPL", 0x0000000E: "EV_IPL_PARTITION_DATA",
	0x0000000F: "EV_NONHOST_CODE", 0x00000010: "EV_NONHOST_CONFIG", 0x00000011: "EV_NONHOST_INFO",
	0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS", 0x00000013: "EV_POST_CODE2",
	TypeEFIVariableConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", TypeEFIVariableBoot: "EV_EFI_VARIABLE_BOOT",
	TypeEFIApplication: "EV_EFI_BOOT_SERVICES_APPLICATION", TypeEFIBootDriver: "EV_EFI_BOOT_SERVICES_DRIVER",
	TypeEFIRuntimeDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER", TypeEFIGPT: "EV_EFI_GPT_EVENT",
	TypeEFIAction: "EV_EFI_ACTION", TypeEFIFirmwareBlob: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	TypeEFIHandoffTables: "EV_EFI_HANDOFF_TABLES", TypeEFIFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	TypeEFIHandoffTables2: "EV_EFI_HANDOFF_TABLES2", TypeEFIVariableBoot2: "EV_EFI_VARIABLE_BOOT2",
	0x8000000D: "EV_EFI_GPT_EVENT2", TypeEFIHCRTM: "EV_EFI_HCRTM_EVENT", TypeEFIAuthority: "EV_EFI_VARIABLE_AUTHORITY",
	0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB", 0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

// TypeName returns the name that the profile gives to e's type, or "unknown 0x..." for one that it does not list.
func (e Event) TypeName() string {
	if name, ok := typeNames[e.Type]; ok {
		return name
	}
	return fmt.Sprintf("unknown 0x%08x", e.Type)
}
