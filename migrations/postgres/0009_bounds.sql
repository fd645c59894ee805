-- What keeps the store from growing without bound: bytes of what waits, the age of session keys,
-- and sessions that were kicked.

SET LOCAL lock_timeout = '5s';

-- Of the body that waits. Nothing in rows that a version before has written: then the envelope
-- tells.
ALTER TABLE broker.delivery ADD COLUMN bytes integer;

-- When the key was last proven, to some hours. The value of rows that are there is the time of this
-- migration, stored once for all of them.
ALTER TABLE broker.session_key ADD COLUMN proven_at timestamptz NOT NULL DEFAULT now();

-- Proven session keys that stay out until then.
CREATE TABLE broker.kicked (
    mesh_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    member_id text COLLATE "C" NOT NULL,
    -- The session's, by which it may be let in again.
    name text NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (mesh_id, key)
);
