-- What the broker itself keeps: owners and their fence, the durable queue, leases.
--
-- Ids compare bytewise (COLLATE "C"): cheaper, and the same order whatever locale the server has.
-- No foreign keys between these tables: the fence makes each mesh's rows one writer's, and a key
-- check would cost every row of the hot statement a lookup.

SET LOCAL lock_timeout = '5s';

CREATE SCHEMA IF NOT EXISTS broker;

-- The fence. Locked FOR SHARE by every commit and updated by every activation, in place: half of
-- each page is left free so that a new version stays beside the old one and the index untouched.
CREATE TABLE broker.mesh_owner (
    mesh_id text COLLATE "C" PRIMARY KEY,
    epoch bigint NOT NULL,
    node text COLLATE "C" NOT NULL,
    -- Who had it before, whose last beat says until when the mesh had an owner.
    previous_node text COLLATE "C",
    raised_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Updated every second by every node: as above.
CREATE TABLE broker.node (
    node text COLLATE "C" PRIMARY KEY,
    beat_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- One row per accepted message for as long as the TTL. Updated once, when the last recipient has
-- it and the body goes; a fifth of each page is left free so that this touches no index. Vacuum
-- comes at 2 % dead rows, not 20: of a week's messages that would be a day and a half's bodies.
CREATE TABLE broker.envelope (
    mesh_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    sender_member_id text COLLATE "C" NOT NULL,
    sender_member_pubkey text COLLATE "C" NOT NULL,
    sender_session_pubkey text COLLATE "C",
    sender_name text NOT NULL,
    target text NOT NULL,
    priority text COLLATE "C" NOT NULL,
    lane smallint NOT NULL,
    nonce text COLLATE "C" NOT NULL,
    ciphertext text COLLATE "C" NOT NULL,
    accept_kind text COLLATE "C" NOT NULL,
    accept_key text COLLATE "C" NOT NULL,
    fingerprint text COLLATE "C",
    reply_to text,
    subtype text,
    -- Milliseconds since the Unix epoch, by the owner's clock.
    created_at bigint NOT NULL,
    -- Everyone it was resolved to when accepted, separated by spaces.
    recipients text COLLATE "C" NOT NULL,
    -- When the last of them had it, by the clock of this server.
    delivered_at bigint,
    PRIMARY KEY (mesh_id, seq)
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1
);

-- Encrypted: trying to compress it is wasted work.
ALTER TABLE broker.envelope ALTER COLUMN nonce SET STORAGE EXTERNAL;
ALTER TABLE broker.envelope ALTER COLUMN ciphertext SET STORAGE EXTERNAL;

-- One row per recipient that has not confirmed. Normally nearly empty and wholly replaced every
-- second, so vacuum goes by a count: a share of nearly nothing would have it start at every look.
-- It does not shorten the file: that takes a lock that stops the hot statement, and the room is
-- needed again at once.
CREATE TABLE broker.delivery (
    mesh_id text COLLATE "C" NOT NULL,
    recipient text COLLATE "C" NOT NULL,
    lane smallint NOT NULL,
    seq bigint NOT NULL,
    -- The envelope may have other deliveries; they are found through the index below. Set as well
    -- when a delivery moves away from the recipient its envelope names.
    shared boolean NOT NULL,
    PRIMARY KEY (mesh_id, recipient, lane, seq)
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = false
);

CREATE INDEX delivery_shared_idx ON broker.delivery (mesh_id, seq) WHERE shared;

-- The keys that make retries recognizable: the largest index of all, and the only one whose inserts
-- land anywhere. Eight parts keep each shallow, and let vacuum finish one at a time.
CREATE TABLE broker.accepted (
    mesh_id text COLLATE "C" NOT NULL,
    member_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    fingerprint text COLLATE "C",
    PRIMARY KEY (mesh_id, member_id, kind, key)
) PARTITION BY HASH (mesh_id, member_id);

CREATE TABLE broker.accepted_0 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE broker.accepted_1 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE broker.accepted_2 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE broker.accepted_3 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE broker.accepted_4 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE broker.accepted_5 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE broker.accepted_6 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE broker.accepted_7 PARTITION OF broker.accepted FOR VALUES WITH (MODULUS 8, REMAINDER 7);

-- The highest sequence retention has removed from a mesh: a mesh silent for longer than the TTL
-- has no envelope left to tell where it was, and a sequence must never be used twice.
CREATE TABLE broker.retired (
    mesh_id text COLLATE "C" PRIMARY KEY,
    seq bigint NOT NULL
) WITH (fillfactor = 70);

-- Presences, as their mesh wrote them. Rewritten often and never by an indexed column.
CREATE TABLE broker.lease (
    mesh_id text COLLATE "C" NOT NULL,
    presence_id text COLLATE "C" NOT NULL,
    body text NOT NULL,
    away_at timestamptz,
    PRIMARY KEY (mesh_id, presence_id)
) WITH (fillfactor = 70);

-- Which member has proven a session key. Kept for good: a key never changes hands.
CREATE TABLE broker.session_key (
    mesh_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    member_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (mesh_id, key)
);
