-- Hellos that were accepted, so that a captured one is not accepted again, and mail that was sealed to
-- a claimed key whose presence has ended.

SET LOCAL lock_timeout = '5s';

-- By a digest of the signature. A row counts for two minutes and is removed with the next hello of
-- its mesh after that, or by retention.
CREATE TABLE broker.hello_seen (
    mesh_id text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    conn text COLLATE "C" NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (mesh_id, digest)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Milliseconds since the Unix epoch, by the clock of this server.
ALTER TABLE broker.envelope ADD COLUMN undeliverable_at bigint;
