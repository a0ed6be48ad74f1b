package s3store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/cordon-ota/cordon/artifacts"
	"github.com/cordon-ota/cordon/attestation/digest"
)

// upload is one call's view of an unfinished upload. Nothing is locked: another process may be ahead, which the next
// conditional write of the state notices.
type upload struct {
	s        *Store
	d        digest.SHA256
	size     int64
	st       state
	revision string    // ETag of the stored state; empty when there is none
	hash     hash.Hash // of all bytes up to the end of buf
	buf      []byte    // bytes after the last part
}

// at is the offset of the next byte to read.
func (u *upload) at() int64 { return int64(len(u.st.Parts))*partBytes + int64(len(u.buf)) }

// standing reads how far an upload is. A state that cannot be used is removed, so that the upload starts again.
func (s *Store) standing(ctx context.Context, d digest.SHA256, size int64) (*upload, error) {
	u := &upload{s: s, d: d, size: size, hash: sha256.New()}
	data, revision, err := s.get(ctx, s.stateKey(d), maxStateBytes)
	if errors.Is(err, artifacts.ErrNotFound) {
		return u, nil
	}
	if err != nil && !errors.Is(err, errDamaged) {
		return nil, err
	}
	if err == nil {
		var st state
		var h hash.Hash
		if st, h, err = decodeState(data); err == nil {
			u.st, u.hash, u.revision = st, h, revision
			return u, nil
		}
	}
	return u, s.remove(ctx, s.stateKey(d))
}

// loadTail brings the bytes after the last part back into memory.
func (u *upload) loadTail(ctx context.Context) error {
	room := min(partBytes, u.size-int64(len(u.st.Parts))*partBytes)
	u.buf = make([]byte, 0, room)
	if u.st.Tail.Length == 0 {
		return nil
	}
	data, _, err := u.s.getInto(ctx, u.tailKey(u.st.Tail), u.st.Tail.Length, u.buf)
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if err != nil || digest.Of(data) != u.st.Tail.SHA256 {
		return fmt.Errorf("%w: its last bytes are not what was written", errGone)
	}
	u.buf = data // with room for the rest of the part
	return nil
}

// errGone: bytes that the state counts are no longer there.
var errGone = errors.New("upload is gone")

// receive reads until the end of r or of the blob and stores part after part.
func (u *upload) receive(ctx context.Context, r io.Reader) (int64, error) {
	for u.at() < u.size {
		if len(u.buf) == partBytes {
			if err := u.commitPart(ctx); err != nil {
				return u.failed(ctx, err)
			}
		}
		err := u.fill(ctx, r)
		if u.at() == u.size {
			break
		}
		if err == io.EOF {
			return u.settle(ctx, nil)
		}
		if err != nil {
			return u.settle(ctx, fmt.Errorf("cannot read the upload: %w", err))
		}
	}
	// A caller that goes away after the last byte does not undo the upload.
	tooLong := hasMore(ctx, r)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), conclusionTimeout)
	defer cancel()
	return u.conclude(ctx, tooLong)
}

// fill reads until the buffer holds a part or all that is missing, or r or the context ends.
func (u *upload) fill(ctx context.Context, r io.Reader) error {
	end := min(cap(u.buf), len(u.buf)+int(min(partBytes, u.size-u.at())))
	for len(u.buf) < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(u.buf[len(u.buf):end])
		u.hash.Write(u.buf[len(u.buf) : len(u.buf)+n])
		u.buf = u.buf[:len(u.buf)+n]
		if err != nil {
			return err
		}
	}
	return nil
}

// hasMore reports whether r has bytes after the last one that was announced.
func hasMore(ctx context.Context, r io.Reader) bool {
	var b [1]byte
	for ctx.Err() == nil {
		n, err := r.Read(b[:])
		if n > 0 || err != nil {
			return n > 0
		}
	}
	return false
}

// commitPart makes the full buffer a part and counts it.
func (u *upload) commitPart(ctx context.Context) error {
	id, created := u.st.UploadID, false
	if id == "" {
		var err error
		if id, err = u.s.newMultipart(ctx, u.d); err != nil {
			return err
		}
		created = true
	}
	p, err := u.s.putPart(ctx, u.d, id, len(u.st.Parts)+1, u.buf)
	unnamed := err != nil
	if err == nil {
		err = u.move(ctx, state{UploadID: id, Parts: append(slices.Clone(u.st.Parts), p)})
		unnamed = errors.Is(err, errChanged) // after another failure the stored state may name it
	}
	if created && unnamed {
		u.abandon(ctx, id)
	}
	if err == nil {
		u.buf = u.buf[:0]
	}
	return err
}

// abandon ends a multipart upload that this call began, also when the caller has gone.
func (u *upload) abandon(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	_ = u.s.abortMultipart(ctx, u.d, id)
}

// settle ends a Write before the last byte: what is in memory becomes durable, also when the caller has gone.
func (u *upload) settle(ctx context.Context, cause error) (int64, error) {
	if u.at() == u.st.offset() {
		return u.at(), cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	next := state{UploadID: u.st.UploadID, Parts: u.st.Parts, Tail: newTail(u.buf)}
	err := u.s.put(ctx, u.tailKey(next.Tail), u.buf)
	if err == nil {
		err = u.move(ctx, next)
	}
	if err == nil {
		return u.st.offset(), cause
	}
	if errors.Is(err, errChanged) { // else it is unknown whether the state names the tail
		_ = u.s.remove(ctx, u.tailKey(next.Tail))
	}
	at, err := u.failed(ctx, err)
	return at, errors.Join(cause, err)
}

// move makes next the stored state. Tails that it no longer names are removed; one that stays behind does no harm.
func (u *upload) move(ctx context.Context, next state) error {
	data, err := encodeState(next, u.hash)
	if err != nil {
		return err
	}
	match := u.revision
	if match == "" {
		match = mustNotExist
	}
	revision, err := u.s.swap(ctx, u.s.stateKey(u.d), data, condition{match})
	if err != nil {
		return err
	}
	old := u.st.Tail
	u.st, u.revision = next, revision
	if old.Length > 0 && old != next.Tail {
		_ = u.s.remove(ctx, u.tailKey(old))
	}
	return nil
}

// conclude ends an upload whose bytes are all there: it becomes a blob, or is thrown away with the reason why.
func (u *upload) conclude(ctx context.Context, tooLong bool) (int64, error) {
	if tooLong {
		return u.refuse(ctx, fmt.Errorf("%w: more than %d bytes", artifacts.ErrLengthMismatch, u.size))
	}
	if got := digest.SHA256(u.hash.Sum(nil)); got != u.d {
		return u.refuse(ctx, fmt.Errorf("%w: they have %s, not %s", artifacts.ErrDigestMismatch, got, u.d))
	}
	if err := u.publish(ctx); err != nil {
		return u.failed(ctx, err)
	}
	u.clean(ctx)
	return u.size, nil
}

// clean removes what a completed upload leaves. A state that stays behind does no harm: nobody looks at it before the
// blob.
func (u *upload) clean(ctx context.Context) {
	if u.revision != "" {
		_ = u.s.remove(ctx, u.s.stateKey(u.d))
	}
	if u.st.Tail.Length > 0 {
		_ = u.s.remove(ctx, u.tailKey(u.st.Tail))
	}
}

// publish makes the checked bytes readable in one step.
func (u *upload) publish(ctx context.Context) error {
	if len(u.st.Parts) == 0 {
		return u.s.put(ctx, u.s.blobKey(u.d), u.buf)
	}
	parts := u.st.Parts
	if len(u.buf) > 0 {
		p, err := u.s.putPart(ctx, u.d, u.st.UploadID, len(parts)+1, u.buf)
		if err != nil {
			return err
		}
		parts = append(slices.Clone(parts), p)
	}
	return u.s.completeMultipart(ctx, u.d, u.st.UploadID, parts)
}

// refuse throws the upload away because of its bytes.
func (u *upload) refuse(ctx context.Context, reason error) (int64, error) {
	err := u.discard(ctx)
	if errors.Is(err, errChanged) { // the upload that stands there now is another one's
		return u.lost(ctx, fmt.Errorf("%w: it was continued by another one", artifacts.ErrOffset))
	}
	return 0, errors.Join(reason, err)
}

// discard throws the upload away unless another one has moved it since.
func (u *upload) discard(ctx context.Context) error {
	if u.revision == "" {
		return nil
	}
	// From this write on no other process can count on the parts; only then they go.
	if _, err := u.s.swap(ctx, u.s.stateKey(u.d), nil, condition{u.revision}); err != nil {
		return err
	}
	var errs []error
	if u.st.UploadID != "" {
		errs = append(errs, u.s.abortMultipart(ctx, u.d, u.st.UploadID))
	}
	if u.st.Tail.Length > 0 {
		errs = append(errs, u.s.remove(ctx, u.tailKey(u.st.Tail)))
	}
	errs = append(errs, u.s.remove(ctx, u.s.stateKey(u.d)))
	u.revision, u.st = "", state{}
	return errors.Join(errs...)
}

// discardMine throws the upload away; one that another writer has moved since is that one's and stays.
func (u *upload) discardMine(ctx context.Context) error {
	if err := u.discard(ctx); !errors.Is(err, errChanged) {
		return err
	}
	return nil
}

// failed ends a Write that could not store something.
func (u *upload) failed(ctx context.Context, err error) (int64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	switch {
	case errors.Is(err, errChanged):
		return u.lost(ctx, fmt.Errorf("%w: it was continued by another one", artifacts.ErrOffset))
	case errors.Is(err, errGone), errors.Is(err, artifacts.ErrNotFound):
		// Parts or the tail went: completed by another one, removed, or ended by a lifecycle rule of the bucket.
		done, completeErr := u.s.complete(ctx, u.d, u.size)
		if completeErr != nil {
			return 0, completeErr
		}
		if done {
			u.clean(ctx)
			return u.size, nil
		}
		if err := u.discardMine(ctx); err != nil {
			return 0, err
		}
		return u.lost(ctx, fmt.Errorf("%w: what was uploaded is gone (%w)", artifacts.ErrOffset, err))
	}
	return u.st.offset(), err
}

// lost ends a Write because the upload stands elsewhere, and says where.
func (u *upload) lost(ctx context.Context, err error) (int64, error) {
	if done, completeErr := u.s.complete(ctx, u.d, u.size); done || completeErr != nil {
		return sizeIf(done, u.size), completeErr // another upload of the same bytes was faster
	}
	now, standingErr := u.s.standing(ctx, u.d, u.size)
	if standingErr != nil {
		return 0, errors.Join(err, standingErr)
	}
	return min(now.st.offset(), u.size), err
}

func (u *upload) tailKey(t tail) string { return u.s.stateKey(u.d) + "." + t.Suffix }
