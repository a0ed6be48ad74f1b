-- Signed states of the audit log. One row per log key and kind (see package tilelog); the rows of a key only ever grow.
CREATE TABLE checkpoints (
    name    text PRIMARY KEY,
    version bigint NOT NULL,
    size    bigint NOT NULL, -- leaves: the events 1 to size
    root    bytea NOT NULL,
    note    bytea NOT NULL,
    at      bigint NOT NULL
);
