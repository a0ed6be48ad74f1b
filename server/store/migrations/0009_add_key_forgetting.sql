-- Two people can have the attestation key of a device forgotten: ak_public, ak_name and ak_qualified_signer are NULL then,
-- until the device has enrolled again.
ALTER TABLE devices ADD COLUMN ak_forget bytea; -- voices of people who want it forgotten, as JSON; NULL when none
