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
