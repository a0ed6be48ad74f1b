-- What standings were decided by, and appraisals of stored Evidence (see package appraise).
ALTER TABLE devices ADD COLUMN grounds bytea; -- policy and baseline behind the last decision; NULL: not known
CREATE INDEX devices_grounds ON devices (product, profile, grounds)
    WHERE lifecycle = 'active' AND (standing = 'affirmed' OR standing = 'stale' AND segment = 'production');

ALTER TABLE appraisals ADD COLUMN repeats bytea;          -- the appraisal whose Evidence this one appraised again
ALTER TABLE appraisals ADD COLUMN reference_values bytea; -- release -> Reference Values document
