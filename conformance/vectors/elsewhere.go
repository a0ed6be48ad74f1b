package vectors

// Pointer is a negative case that lies outside of one appraisal: in enrollment, in the server's state, on the road of an
// artifact. A test of that layer holds it.
type Pointer struct {
	Case  string
	About string
	Tests []string // "folder TestName"
}

// Missing is a case that nothing holds yet, and why.
type Missing struct{ Case, About, Why string }

// Elsewhere lists the cases that other layers hold.
func Elsewhere() []Pointer {
	return []Pointer{
		{"N40", "an endorsement certificate that signed itself, with a manufacturer's name", []string{"attestation/identity TestRefusesEKCertificates", "server/enroll TestFirstRoundRefuses"}},
		{"N41", "another endorsement key than the certificate's", []string{"attestation/identity TestCredentialOpensOnlyForItsKeys"}},
		{"N42", "the endorsement certificate of another device", []string{"server/enroll TestEKOfAnotherDeviceReplayed", "server/enroll TestGenuineTPMsCannotStandInForEachOther"}},
		{"N43", "the same device id with another endorsement key: the id is the digest of the key", []string{"attestation/identity TestDeviceIDHasOneForm"}},
		{"N44", "one endorsement key for two device ids: the id is the digest of the key, so it enrolls again as itself", []string{"server/enroll TestEnrollingAgain", "client/ctl/verify TestRefusesOneAttestationKeyForTwoDevices"}},
		{"N45", "an activation answer that is replayed, late or used twice", []string{"server/enroll TestChallengeIsUsedOnceInTimeAndForItsRequest"}},
		{"N46", "a wrong secret, then the right one", []string{"server/enroll TestSecondRoundRefuses"}},
		{"N47", "an endorsement key with another template: the public area is rebuilt from the certificate and never sent", []string{"attestation/identity TestNameOfTheEKIsMadeFromTheStandardTemplate", "attestation/identity TestRefusesToMakeWeakCredentials"}},
		{"N49", "an emulated TPM where only real manufacturers are pinned", []string{"server/enroll TestGenuineTPMsCannotStandInForEachOther"}},
		{"N50", "a certification of the TLS key with one part wrong", []string{"attestation/identity TestRefusesCertifications", "attestation/identity TestRefusesTLSKeys"}},
		{"N51", "another TLS key on the connection than the certified one", []string{"server/enroll TestFirstRoundRefuses", "server/enroll TestForeignConnectionIsRefusedBeforeTheChain"}},
		{"N60", "the same challenge twice", []string{"server/appraise TestChallengesDiffer"}},
		{"N62", "a challenge for another device or purpose", []string{"server/appraise TestChallengeIsForOneDeviceAndPurposeAndExpires"}},
		{"N63", "a challenge that has expired", []string{"server/appraise TestChallengeIsForOneDeviceAndPurposeAndExpires"}},
		{"N64", "a challenge whose MAC was tampered with", []string{"server/appraise TestRefusesTamperedChallenge"}},
		{"N65", "a beacon outside of its window", []string{"server/appraise TestRefusesStaleAndForeignNonces"}},
		{"N66", "a beacon or challenge from the future", []string{"server/appraise TestRefusesStaleAndForeignNonces", "server/appraise TestChallengeIsForOneDeviceAndPurposeAndExpires"}},
		{"N71", "Evidence over a beacon where something new is decided", []string{"server/fleet TestNewThingsNeedAChallenge", "server/appraise TestNewBootOverTheBeaconNeedsAChallenge"}},
		{"N134", "the old release after its deadline: held, never quarantined", []string{"server/appraise TestMissedDeadlineIsOverdueAndNeverQuarantines"}},
		{"N135", "Reference Values by another role, or of another image than the release's", []string{"artifacts/tufrepo TestProductRoleSpeaksForItsOwnPathsOnly", "server/repository TestPublishRefusals"}},
		{"N136", "older Reference Values: they are targets, and the repository does not go back", []string{"artifacts/tufrepo TestRefusesRollback"}},
		{"N137", "the device claims another version than the measured one", []string{"server/appraise TestClaimThatTheQuoteContradictsHoldsUpdates", "server/appraise TestHonestClaimsAgree", "conformance/demo TestClientThatClaimsAnotherReleaseGetsNoUpdate"}},
		{"N138", "a release below the lowest counter that is allowed", []string{"client TestRefusesDowngrade", "server/segment TestAllow"}},
		{"N139", "a policy that is tightened after the device passed: stored Evidence, devices that keep silent, the moments before anybody has looked", []string{"server/appraise TestWithdrawnComponentClosesTheDoorBeforeTheSweep", "server/appraise TestPollAppraisesStoredEvidenceFirst", "server/appraise TestSweepDecidesByWhatChanged", "conformance/demo TestWithdrawnImageReachesADeviceThatKeepsSilent"}},
		{"N140", "failed, then silent, then passed: quarantine sticks", []string{"server/fleet TestOnlyProvenWrongStatesQuarantineAndItSticks"}},
		{"N141", "a pass that arrives after a person's quarantine", []string{"server/appraise TestConflictIsDecidedAgain"}},
		{"N142", "two pieces of Evidence at once", []string{"server/appraise TestConcurrentPolls"}},
		{"N143", "an artifact asked for by another device, of another release, or after a change of mind", []string{"server/deviceapi TestArtifactRefusalsByReason", "server/deviceapi TestRefusesWithoutAKnownKey"}},
		{"N144", "a failure of the server in the middle leaves no pass", []string{"server/appraise TestFailedCommitChangesNothingAndAnswersNothing", "server/appraise TestOurOwnGapsNeverQuarantine"}},
		{"N145", "Evidence relayed from another connection", []string{"server/deviceapi TestQuoteIsBoundToItsConnection", "server/appraise TestRefusesEvidenceOfAnotherSession"}},
		{"N146", "a server's clock that is five minutes off", []string{"server/appraise TestChallengeIsForOneDeviceAndPurposeAndExpires"}},
	}
}

// NotHeld lists the cases that nothing holds yet.
func NotHeld() []Missing {
	return nil
}
