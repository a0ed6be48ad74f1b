// Package updaters plays the whole road with devices that are updated by other programs than ours: RAUC and SWUpdate.
//
// Its test publishes releases whose images are a RAUC bundle and a SWUpdate image, each signed for its own updater besides,
// to two machines that boot by GRUB. They prove their factory image, install, prove the new boot and are blessed; they
// refuse what a stranger signed for the updater, fall back from what does not boot, take the next release, and are not
// blessed when somebody has written the slot. Each time the server, cordonctl, and the updater or its boot loader are asked
// how things stand.
//
// Nobody trusts this package.
package updaters
