-- An attestation key speaks for one device: whoever registers the key of another one is refused (V-17, N44).
CREATE UNIQUE INDEX devices_ak_name ON devices (ak_name);
