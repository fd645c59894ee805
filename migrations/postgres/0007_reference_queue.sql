-- What the reference broker left undelivered is looked for at every start; it kept no index of it.

SET LOCAL lock_timeout = '5s';

DO $$ BEGIN
    IF to_regclass('mesh.message_queue') IS NOT NULL THEN
        CREATE INDEX IF NOT EXISTS message_queue_waiting_idx
            ON mesh.message_queue (mesh_id, created_at, id) WHERE delivered_at IS NULL;
    END IF;
END $$;
