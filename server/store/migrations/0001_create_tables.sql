-- Times are microseconds since 1970 in UTC, 0 for never. A digest that is absent is NULL, so that unique rules ignore it.
-- A uint64 is stored as the int64 with the same bits. Columns that hold a list or a map hold it as JSON, NULL when empty.

-- One row. Every writing transaction locks it first: that is what keeps audit numbers free of gaps, and writers of
-- several replicas from deadlocks.
CREATE TABLE audit_head (
    one     bigint PRIMARY KEY CHECK (one = 1),
    number  bigint NOT NULL, -- of the newest event
    commits bigint NOT NULL  -- transactions so far
);
INSERT INTO audit_head (one, number, commits) VALUES (1, 0, 0);

-- The newest transactions, a ring: tells whether a commit whose answer was lost took place.
CREATE TABLE commits (
    slot     bigint PRIMARY KEY,
    number   bigint NOT NULL,
    instance bytea NOT NULL
);

CREATE TABLE events (
    number  bigint PRIMARY KEY,
    at      bigint NOT NULL,
    type    text NOT NULL,
    actor   text NOT NULL,
    subject text NOT NULL,
    leaf    bytea NOT NULL
);
CREATE INDEX events_subject ON events (subject, number);

CREATE TABLE devices (
    id                  text PRIMARY KEY,
    version             bigint NOT NULL,
    product             text NOT NULL,
    hardware_id         text NOT NULL,
    profile             text NOT NULL,
    lifecycle           text NOT NULL,
    standing            text NOT NULL,
    tier                bigint NOT NULL,
    admitted_by         text NOT NULL,
    ek_certificate      bytea,
    ek_spki             bytea UNIQUE,
    manufacturer        text NOT NULL,
    ak_public           bytea,
    ak_name             bytea,
    ak_qualified_signer bytea,
    tls_public          bytea,
    tls_key             bytea UNIQUE,
    counter_base        bigint NOT NULL,
    enrolled_at         bigint NOT NULL,
    accepted            bytea,
    last_evidence       bytea,
    log_digest          bytea,
    proven              text NOT NULL,
    proven_counter      bigint NOT NULL,
    high_counter        bigint NOT NULL,
    proven_at           bigint NOT NULL,
    challenged_at       bigint NOT NULL,
    lease_until         bigint NOT NULL,
    stale_since         bigint NOT NULL,
    offered             text NOT NULL,
    offered_counter     bigint NOT NULL,
    offered_at          bigint NOT NULL,
    deadline            bigint NOT NULL,
    counter             bigint,
    last_poll           bytea,
    last_answer         bytea,
    seen_at             bigint NOT NULL,
    segment             text NOT NULL,
    epoch               bigint NOT NULL
);
CREATE INDEX devices_product ON devices (product, id);
CREATE INDEX devices_lease ON devices (lease_until) WHERE standing = 'affirmed' AND lifecycle = 'active';
CREATE INDEX devices_stale ON devices (stale_since) WHERE standing = 'stale' AND lifecycle = 'active' AND segment = 'production';
CREATE INDEX devices_deadline ON devices (deadline) WHERE deadline > 0 AND lifecycle = 'active';

CREATE TABLE quarantines (
    id           text PRIMARY KEY,
    version      bigint NOT NULL,
    device       text NOT NULL,
    since        bigint NOT NULL,
    causes       bytea,
    detail       text NOT NULL,
    started_by   text NOT NULL,
    evidence     bytea,
    recovered_at bigint NOT NULL,
    ended_at     bigint NOT NULL
);
CREATE UNIQUE INDEX quarantines_open ON quarantines (device) WHERE ended_at = 0;
CREATE INDEX quarantines_since ON quarantines (since);

CREATE TABLE approvals (
    subject text NOT NULL,
    person  text NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (subject, person)
);

CREATE TABLE releases (
    name              text PRIMARY KEY,
    version           bigint NOT NULL,
    product           text NOT NULL,
    counter           bigint NOT NULL,
    recovery          boolean NOT NULL,
    state             text NOT NULL,
    hold              boolean NOT NULL,
    hold_detail       text NOT NULL,
    statement         bytea,
    bundles           bytea,
    publishers        bytea,
    reference_values  bytea,
    sboms             bytea,
    created_by        text NOT NULL,
    created_at        bigint NOT NULL,
    published_at      bigint NOT NULL,
    timestamp_version bigint NOT NULL
);
CREATE INDEX releases_product ON releases (product, counter);

CREATE TABLE repos (
    name          text PRIMARY KEY,
    version       bigint NOT NULL,
    image_root    bigint NOT NULL,
    director_root bigint NOT NULL,
    targets       bigint NOT NULL,
    products      bytea,
    snapshot      bigint NOT NULL,
    timestamp_number bigint NOT NULL,
    timestamp_doc bytea,
    issued_at     bigint NOT NULL,
    pending       bytea
);

CREATE TABLE metadata (
    name  text PRIMARY KEY,
    bytes bytea NOT NULL
);

CREATE TABLE beacons (
    digest    bytea PRIMARY KEY,
    number    bigint NOT NULL,
    issued_at bigint NOT NULL,
    doc       bytea
);
CREATE INDEX beacons_issued ON beacons (issued_at);

CREATE TABLE directors (
    device        text PRIMARY KEY,
    version       bigint NOT NULL,
    number        bigint NOT NULL,
    content       bytea,
    expires_at    bigint NOT NULL,
    timestamp_doc bytea,
    snapshot_doc  bytea,
    targets_doc   bytea
);

CREATE TABLE appraisals (
    number   bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    id       bytea NOT NULL UNIQUE,
    device   text NOT NULL,
    product  text NOT NULL,
    at       bigint NOT NULL,
    outcome  text NOT NULL,
    release  text NOT NULL,
    input    bytea,
    verdict  bytea,
    verifier text NOT NULL,
    policy   bytea,
    baseline bytea
);
CREATE INDEX appraisals_device ON appraisals (device, number);
CREATE INDEX appraisals_product ON appraisals (product, number);

CREATE TABLE logs (
    digest bytea PRIMARY KEY,
    bytes  bytea NOT NULL
);

CREATE TABLE updates (
    number       bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    device       text NOT NULL,
    product      text NOT NULL,
    from_release text NOT NULL,
    to_release   text NOT NULL,
    offered_at   bigint NOT NULL,
    ended_at     bigint NOT NULL,
    result       text NOT NULL,
    evidence     bytea
);
CREATE UNIQUE INDEX updates_open ON updates (device) WHERE result = 'open';
CREATE INDEX updates_offered ON updates (product, offered_at);

CREATE TABLE challenges (
    digest     bytea PRIMARY KEY,
    expires_at bigint NOT NULL
);
CREATE INDEX challenges_expires ON challenges (expires_at);

CREATE TABLE inventory (
    device      text PRIMARY KEY,
    product     text NOT NULL,
    hardware_id text NOT NULL,
    profile     text NOT NULL,
    entered_by  text NOT NULL,
    at          bigint NOT NULL
);

CREATE TABLE enroll_tokens (
    hash        bytea PRIMARY KEY,
    product     text NOT NULL,
    hardware_id text NOT NULL,
    profile     text NOT NULL,
    issued_by   text NOT NULL,
    expires_at  bigint NOT NULL,
    used_at     bigint NOT NULL,
    used_by     text NOT NULL
);

CREATE TABLE people (
    name     text PRIMARY KEY,
    version  bigint NOT NULL,
    roles    bytea,
    disabled boolean NOT NULL,
    at       bigint NOT NULL
);

CREATE TABLE tokens (
    hash       bytea PRIMARY KEY,
    person     text NOT NULL,
    at         bigint NOT NULL,
    expires_at bigint NOT NULL,
    revoked_at bigint NOT NULL
);
CREATE INDEX tokens_person ON tokens (person);

CREATE TABLE settings (
    name    text PRIMARY KEY,
    version bigint NOT NULL,
    value   bytea
);

CREATE TABLE orders (
    id          bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    device      text NOT NULL,
    segment     text NOT NULL,
    epoch       bigint NOT NULL,
    point       text NOT NULL,
    at          bigint NOT NULL,
    acked_at    bigint NOT NULL,
    verified_at bigint NOT NULL,
    detail      text NOT NULL,
    superseded  boolean NOT NULL -- a newer order for the same device and point exists
);
CREATE INDEX orders_device ON orders (device, id);
CREATE INDEX orders_pending ON orders (point, id) WHERE verified_at = 0 AND NOT superseded;

CREATE TABLE locks (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    fence      bigint NOT NULL,
    expires_at bigint NOT NULL
);
