-- What keeps the store from growing without bound: bytes of what waits, the age of session keys,
-- and sessions that were kicked.

-- Of the body that waits. Nothing in rows that a version before has written: then the envelope
-- tells.
ALTER TABLE delivery ADD COLUMN bytes INTEGER;

-- When the key was last proven, to some hours. A column that is added has a constant default.
ALTER TABLE session_key ADD COLUMN proven_at INTEGER NOT NULL DEFAULT 0;

UPDATE session_key SET proven_at = CAST(round(unixepoch('subsec') * 1000) AS INTEGER);

-- Proven session keys that stay out until then; `name` is the session's, by which it may be let in
-- again.
CREATE TABLE kicked (
    mesh_id TEXT NOT NULL,
    key TEXT NOT NULL,
    member_id TEXT NOT NULL,
    name TEXT NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (mesh_id, key)
) STRICT, WITHOUT ROWID;
