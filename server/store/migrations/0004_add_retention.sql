-- What publishers rely on, and what is being removed from the artifact store (see package retention).
CREATE TABLE blobs (
    sha256       bytea PRIMARY KEY,
    touched_at   bigint NOT NULL, -- when somebody was last told that the blob is there, or published it
    condemned_at bigint NOT NULL  -- 0 unless it is being removed: nobody may rely on it then
);
CREATE INDEX blobs_condemned ON blobs (condemned_at) WHERE condemned_at > 0;

ALTER TABLE releases ADD COLUMN pruned_at bigint NOT NULL DEFAULT 0; -- its images are no longer kept
