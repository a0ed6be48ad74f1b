-- Platform baselines that baseline signers signed, for good: verdicts of earlier times were reached with older ones.
CREATE TABLE baselines (
    product    text NOT NULL,
    profile    text NOT NULL,
    generation bigint NOT NULL,
    digest     bytea NOT NULL,  -- of the baseline document that quotes are compared with
    bundles    bytea,           -- JSON list of Sigstore bundles over the baseline statement
    added_by   text NOT NULL,
    at         bigint NOT NULL,
    PRIMARY KEY (product, profile, generation)
);

-- What a device proved about a platform that no baseline describes; the newest of each device.
CREATE TABLE observations (
    device     text PRIMARY KEY,
    product    text NOT NULL,
    profile    text NOT NULL,
    at         bigint NOT NULL,
    release    text NOT NULL,   -- that it booted
    evidence   bytea NOT NULL,
    log_digest bytea NOT NULL,
    pcrs       bytea            -- JSON, as quoted
);
CREATE INDEX observations_profile ON observations (product, profile, device);
