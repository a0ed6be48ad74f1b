-- Where a device is in the network, and what became of an order at a network enforcement point.

CREATE TABLE addresses (
    device  text NOT NULL,
    source  text NOT NULL, -- who says so: 'inventory' or 'poll'
    kind    text NOT NULL, -- 'ip' or 'mac'
    address text NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (device, source, kind, address)
);
CREATE INDEX addresses_address ON addresses (address, device);

ALTER TABLE orders ADD COLUMN tightens boolean NOT NULL DEFAULT FALSE;    -- it takes a device out of production
ALTER TABLE orders ADD COLUMN waiting text NOT NULL DEFAULT '';           -- why it is not verified yet
ALTER TABLE orders ADD COLUMN observed text NOT NULL DEFAULT '';          -- the segment that the point last showed
ALTER TABLE orders ADD COLUMN observed_at bigint NOT NULL DEFAULT 0;
CREATE INDEX orders_tightening ON orders (at) WHERE tightens;
CREATE INDEX orders_verified ON orders (point, id) WHERE verified_at > 0 AND NOT superseded;
