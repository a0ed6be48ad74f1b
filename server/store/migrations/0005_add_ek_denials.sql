-- TPMs that are not believed although their endorsement keys are genuine, and what holding devices against that list needs.
CREATE TABLE ek_denials (
    id        text PRIMARY KEY,
    version   bigint NOT NULL,
    denial    bytea NOT NULL, -- identity.Denial as JSON
    denied_by text NOT NULL,
    at        bigint NOT NULL,
    lifted_at bigint NOT NULL -- 0 while it is in force
);
CREATE INDEX ek_denials_in_force ON ek_denials (at) WHERE lifted_at = 0;

ALTER TABLE devices ADD COLUMN ek_public bytea;  -- SubjectPublicKeyInfo of the EK of a device without a certificate
ALTER TABLE devices ADD COLUMN ek_issuers bytea; -- key identifiers above the EK certificate, as JSON; NULL when none
