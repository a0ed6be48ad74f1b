package eventlog

// types is a set of event types.
type types []uint32

// laterTypes are the types that a register of the firmware may get after its separator: what boot options, loaders and
// late drivers are measured as, and nothing that describes the firmware itself.
var laterTypes = [lastFirmwarePCR + 1]types{
	0: {},
	1: {TypeEFIVariableBoot, TypeEFIVariableBoot2, TypeEFIHandoffTables, TypeEFIHandoffTables2, TypePlatformConfig, TypeEFIAction, TypeAction, TypeEventTag},
	2: {TypeEFIApplication, TypeEFIBootDriver, TypeEFIRuntimeDriver, TypeEFIGPT, TypeEFIGPT2, TypeEFIAction, TypeAction, TypeSPDMFirmware},
	3: {TypeEFIVariableConfig, TypeEFIAction, TypeAction, TypeSPDMConfig, TypeNonhostConfig},
	4: {TypeEFIApplication, TypeEFIBootDriver, TypeEFIRuntimeDriver, TypeEFIAction, TypeAction, TypeOmitBootDevice},
	5: {TypeEFIGPT, TypeEFIGPT2, TypeEFIAction, TypeAction, TypeIPLPartitionData, TypeEFIVariableBoot, TypeEFIVariableConfig, TypeEventTag},
	6: {TypeEFIAction, TypeAction, TypeEventTag, TypeCompactHash},
	7: {TypeEFIAuthority, TypeSPDMAuthority},
}

// pcrs is a set of registers, one bit each.
type pcrs uint32

func in(list ...int) (set pcrs) {
	for _, pcr := range list {
		set |= 1 << pcr
	}
	return set
}

// placeOf says for a type of the specification which of the registers 0 to 15 it may stand in; a type without a row
// (separators) may stand in all. The registers above are the dynamic launch's and the user's own.
func placeOf(typ uint32) (set pcrs, limited bool) {
	switch typ {
	case TypeSCRTMContents, TypeSCRTMVersion, TypeEFIHCRTM:
		return in(0), true
	case TypePostCode, TypePostCode2, TypeEFIFirmwareBlob, TypeEFIFirmwareBlob2:
		return in(0, 2), true
	case TypeCPUMicrocode, TypePlatformConfig, TypeTableOfDevices, TypeEFIHandoffTables, TypeEFIHandoffTables2:
		return in(0, 1), true
	case TypeNonhostCode, TypeNonhostInfo:
		return in(0, 2), true
	case TypeNonhostConfig:
		return in(1, 3), true
	case TypeSPDMFirmware:
		return in(2), true
	case TypeSPDMConfig:
		return in(3), true
	case TypeEFIVariableBoot, TypeEFIVariableBoot2:
		return in(1, 5), true
	case TypeEFIVariableConfig:
		return in(1, 3, 5, 7), true
	case TypeEFIAuthority, TypeSPDMPolicy, TypeSPDMAuthority:
		return in(7), true
	case TypeEFIApplication:
		return in(2, 4), true
	case TypeEFIBootDriver, TypeEFIRuntimeDriver:
		return in(0, 2, 4), true
	case TypeEFIGPT, TypeEFIGPT2:
		return in(2, 5), true
	case TypeEFIAction:
		return in(1, 2, 3, 4, 5, 6, 7), true
	case TypeAction:
		return in(1, 2, 3, 4, 5, 6), true
	case TypeOmitBootDevice:
		return in(4), true
	case TypeIPLPartitionData:
		return in(5), true
	case TypeIPL:
		return in(8, 9, 10, 11, 12, 13, 14, 15), true
	case TypeEventTag: // in PCR 5 it is loader.conf, which systemd-boot measures since version 255
		return in(1, 2, 3, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15), true
	case TypeCompactHash:
		return in(1, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15), true
	case 0, 2: // EV_PREBOOT_CERT and EV_UNUSED: reserved
		return 0, true
	case TypeGoogleDRTM:
		return 0, true
	default:
		return 0, false
	}
}
