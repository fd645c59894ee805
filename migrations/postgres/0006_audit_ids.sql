-- Every accepted message is an entry of an audit chain, and 2^31 of them are not enough. Where the
-- reference broker lives on the same tables its column is left as it is: it would read a larger one
-- as text, and the table may be too large to rewrite while others wait.

SET LOCAL lock_timeout = '5s';

DO $$ BEGIN
    IF to_regclass('mesh.__cmh_migrations') IS NULL
        AND to_regclass('mesh.message_queue') IS NULL
    THEN
        ALTER TABLE mesh.audit_log ALTER COLUMN id TYPE bigint;
    END IF;
END $$;
