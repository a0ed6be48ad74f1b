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
	TypeCPUMicrocode      uint32 = 0x00000009
	TypePlatformConfig    uint32 = 0x0000000A
	TypeTableOfDevices    uint32 = 0x0000000B
	TypeCompactHash       uint32 = 0x0000000C
	TypeIPL               uint32 = 0x0000000D
	TypeIPLPartitionData  uint32 = 0x0000000E
	TypeNonhostCode       uint32 = 0x0000000F
	TypeNonhostConfig     uint32 = 0x00000010
	TypeNonhostInfo       uint32 = 0x00000011
	TypeOmitBootDevice    uint32 = 0x00000012
	TypePostCode2         uint32 = 0x00000013
	TypeGoogleDRTM        uint32 = 0x10000000 // not of the profile: Google's host firmware
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
	TypeEFIGPT2           uint32 = 0x8000000D
	TypeEFIHCRTM          uint32 = 0x80000010
	TypeEFIAuthority      uint32 = 0x800000E0
	TypeSPDMFirmware      uint32 = 0x800000E1
	TypeSPDMConfig        uint32 = 0x800000E2
	TypeSPDMPolicy        uint32 = 0x800000E3
	TypeSPDMAuthority     uint32 = 0x800000E4
)

// typeNames is the table behind TypeName.
var typeNames = map[uint32]string{
	0x00000000: "EV_PREBOOT_CERT", TypePostCode: "EV_POST_CODE", 0x00000002: "EV_UNUSED",
	TypeNoAction: "EV_NO_ACTION", TypeSeparator: "EV_SEPARATOR", TypeAction: "EV_ACTION",
	TypeEventTag: "EV_EVENT_TAG", TypeSCRTMContents: "EV_S_CRTM_CONTENTS", TypeSCRTMVersion: "EV_S_CRTM_VERSION",
	TypeCPUMicrocode: "EV_CPU_MICROCODE", TypePlatformConfig: "EV_PLATFORM_CONFIG_FLAGS",
	TypeTableOfDevices: "EV_TABLE_OF_DEVICES", TypeCompactHash: "EV_COMPACT_HASH", TypeIPL: "EV_IPL",
	TypeIPLPartitionData: "EV_IPL_PARTITION_DATA", TypeNonhostCode: "EV_NONHOST_CODE",
	TypeNonhostConfig: "EV_NONHOST_CONFIG", TypeNonhostInfo: "EV_NONHOST_INFO",
	TypeOmitBootDevice: "EV_OMIT_BOOT_DEVICE_EVENTS", TypePostCode2: "EV_POST_CODE2",
	TypeGoogleDRTM:        "EV_GOOGLE_DRTM_EVENT",
	TypeEFIVariableConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", TypeEFIVariableBoot: "EV_EFI_VARIABLE_BOOT",
	TypeEFIApplication: "EV_EFI_BOOT_SERVICES_APPLICATION", TypeEFIBootDriver: "EV_EFI_BOOT_SERVICES_DRIVER",
	TypeEFIRuntimeDriver: "EV_EFI_RUNTIME_SERVICES_DRIVER", TypeEFIGPT: "EV_EFI_GPT_EVENT",
	TypeEFIAction: "EV_EFI_ACTION", TypeEFIFirmwareBlob: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	TypeEFIHandoffTables: "EV_EFI_HANDOFF_TABLES", TypeEFIFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	TypeEFIHandoffTables2: "EV_EFI_HANDOFF_TABLES2", TypeEFIVariableBoot2: "EV_EFI_VARIABLE_BOOT2",
	TypeEFIGPT2: "EV_EFI_GPT_EVENT2", TypeEFIHCRTM: "EV_EFI_HCRTM_EVENT", TypeEFIAuthority: "EV_EFI_VARIABLE_AUTHORITY",
	TypeSPDMFirmware: "EV_EFI_SPDM_FIRMWARE_BLOB", TypeSPDMConfig: "EV_EFI_SPDM_FIRMWARE_CONFIG",
	TypeSPDMPolicy: "EV_EFI_SPDM_DEVICE_POLICY", TypeSPDMAuthority: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

// TypeName returns the name that the profile gives to e's type, or "unknown 0x..." for one that it does not list.
func (e Event) TypeName() string {
	if name, ok := typeNames[e.Type]; ok {
		return name
	}
	return fmt.Sprintf("unknown 0x%08x", e.Type)
}

// known reports whether the profile, or a vendor whose logs are known, lists e's type.
func (e Event) known() bool {
	_, ok := typeNames[e.Type]
	return ok
}
