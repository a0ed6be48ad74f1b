// Package crash names the steps at which a process may die, so that a test can kill it exactly there.
//
// Here marks a step in server, signer and client. It is an empty function, and no name of a point is in the program,
// unless the program was built with the tag cordon_crash, which only conformance/crash does: then the process kills
// itself with SIGKILL at the point that CORDON_CRASH names. The package refuses to do anything else there: no error is
// injected and no cleanup runs, because a power cut does neither. Nobody has to trust it.
package crash

// Point is a named step. The list is closed; each point is passed in exactly one place of the code.
type Point string

// The agent.
const (
	AgentCounterMade     Point = "agent.enroll.counter_made"    // the TPM has a release counter, the state does not know yet
	AgentActivatedAnswer Point = "agent.enroll.answered"        // the server has enrolled the device, the state does not know yet
	AgentBaseAnchored    Point = "agent.enroll.base_anchored"   // the base lies in the TPM, the state does not know yet
	AgentPollStored      Point = "agent.poll.stored"            // the poll is on disk and not sent yet
	AgentPollAnswered    Point = "agent.poll.answered"          // the answer is there, the stored poll still lies on disk
	AgentPollForgotten   Point = "agent.poll.forgotten"         // the stored poll is gone, the answer was not looked at
	AgentImageKept       Point = "agent.metadata.image_kept"    // image metadata was written, the director's not yet
	AgentDirectorKept    Point = "agent.metadata.director_kept" // both were written
	AgentBundleKept      Point = "agent.update.bundle_kept"     // the bundle lies there without a journal
	AgentJournalBegun    Point = "agent.update.journal_begun"   // the journal says downloading, no byte is there
	AgentSlotSynced      Point = "agent.update.slot_synced"     // bytes are durable that the journal does not know of
	AgentOffsetKept      Point = "agent.update.offset_kept"     // bytes are durable and the journal knows
	AgentVerified        Point = "agent.update.verified"        // every slot holds its image, none is named for the boot
	AgentActivated       Point = "agent.update.activated"       // a slot is named for the next boot, the journal does not know
	AgentStaged          Point = "agent.update.staged"          // the journal knows, the restart was not asked for
	AgentRebooting       Point = "agent.update.rebooting"       // the journal says rebooting, the restart did not happen
	AgentSlotCommitted   Point = "agent.commit.slot"            // the slot is permanent, the counter is not raised
	AgentCounterRaised   Point = "agent.commit.counter"         // the counter is raised, the state does not know
	AgentCommitRecorded  Point = "agent.commit.recorded"        // the state knows, the journal still lies there
	AgentFellBack        Point = "agent.fallback.recorded"      // a failed trial stands in the state, the journal still lies there
	AgentFileWritten     Point = "agent.file.written"           // a new file is synced under its temporary name
	AgentFileRenamed     Point = "agent.file.renamed"           // it has its name, the folder is not synced
	SlotNameWritten      Point = "agent.slot.name_written"      // the new content of a slot file is synced under a temporary name
	SlotNameRenamed      Point = "agent.slot.name_renamed"      // it has its name, the folder is not synced
	SlotActiveMoved      Point = "agent.slot.active_moved"      // the trial became the active slot, its mark still lies there
)

// Publishing, in the signer.
const (
	SignerSigned    Point = "signer.publish.signed"    // the statement is signed, nothing was uploaded
	SignerUploaded  Point = "signer.publish.uploaded"  // one blob is there
	SignerReady     Point = "signer.publish.ready"     // all blobs are there, the release was not handed over
	SignerPublished Point = "signer.publish.published" // the server has answered, nothing was printed
	CeremonyWritten Point = "signer.ceremony.written"  // a file of the ceremony is synced under its temporary name
	CeremonyRenamed Point = "signer.ceremony.renamed"  // it has its name, the folder is not synced
)

// Publishing, in the server.
const (
	UploadWritten     Point = "server.upload.written"      // bytes of an upload are durable, the answer was not sent
	BlobChecked       Point = "server.blob.checked"        // a full upload has its digest and is no blob yet
	BlobRenamed       Point = "server.blob.renamed"        // it is a blob, its folder is not synced
	NameWritten       Point = "server.name.written"        // a document is synced under its temporary name
	NameRenamed       Point = "server.name.renamed"        // it has its name, the folder is not synced
	PublishBundleKept Point = "server.publish.bundle_kept" // the bundle is in the store, the release in no row
	ReleaseStaged     Point = "server.release.staged"      // it waits for approvals, the publisher has no answer
	ReleaseApproved   Point = "server.release.approved"    // an approval is durable, what follows from it is not
	ReleaseMarked     Point = "server.release.marked"      // a hold, or its end, is durable and nobody follows yet
	PublishDecided    Point = "server.publish.decided"     // new metadata is signed and in no row
	PublishCommitted  Point = "server.publish.committed"   // it is in the rows, none of it in the store
	PublishObjects    Point = "server.publish.objects"     // all but the timestamp is in the store
	PublishVisible    Point = "server.publish.visible"     // the timestamp is in the store, the rows say pending
	PublishNoted      Point = "server.publish.noted"       // the rows know, the catalog does not
)

// Devices, in the server.
const (
	EnrollDecided   Point = "server.enroll.decided"   // admitted, in no row
	EnrollCommitted Point = "server.enroll.committed" // admitted, the device has no answer
	PollDecided     Point = "server.poll.decided"     // the answer is written, nothing of it is durable
	PollCommitted   Point = "server.poll.committed"   // it is durable, the device has no answer
	DoorDecided     Point = "server.door.decided"     // the door has decided, its event is in no row
	DoorRecorded    Point = "server.door.recorded"    // the event is there, the device has no answer
	DoorCut         Point = "server.door.cut"         // streams are cut, the order is not settled
	DoorSettled     Point = "server.door.settled"     // the order is settled, the enforcer does not know
	StepDecided     Point = "server.step.decided"     // a person's decision about a device, in no row
	StepCommitted   Point = "server.step.committed"   // it is durable, the person has no answer
	SweepDecided    Point = "server.sweep.decided"    // a device is found stale or overdue, in no row
	SweepCommitted  Point = "server.sweep.committed"  // it is durable, nobody was woken
)

// The rest of the server.
const (
	ReportSigned   Point = "server.report.signed"       // the report is signed, no row says that it was made
	ReportRecorded Point = "server.report.recorded"     // the row is there, the auditor has no answer
	LogGrown       Point = "server.log.grown"           // tiles hold new leaves, no checkpoint covers them
	LogSigned      Point = "server.log.signed"          // a checkpoint is signed and in no row
	LogStored      Point = "server.log.stored"          // it is in a row, the directory has the one before
	PointSeen      Point = "server.point.seen"          // a network point has acted or was read back, no row says so
	PointSettled   Point = "server.point.settled"       // the row says so, the driver does not know
	Condemned      Point = "server.retention.condemned" // blobs are condemned in their rows and still there
	Collected      Point = "server.retention.collected" // they are gone, the rows still say condemned
	KeyWritten     Point = "server.key.written"         // a key or the one-time token is synced under its temporary name
	KeyPlaced      Point = "server.key.placed"          // it has its name, the folder is not synced
)
