-- Hellos that were accepted, so that a captured one is not accepted again: by a digest of the
-- signature. A row counts for two minutes and is removed with the next hello of its mesh after that,
-- or by retention.
CREATE TABLE hello_seen (
    mesh_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    conn TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (mesh_id, digest)
) STRICT, WITHOUT ROWID;

-- When mail that was sealed to a claimed key ended with the presence that claimed it.
ALTER TABLE envelope ADD COLUMN undeliverable_at INTEGER;
