-- What hooks find presences by, and which commands have been executed.

SET LOCAL lock_timeout = '5s';

-- Leases are rewritten often, but where a session runs seldom changes: an update that leaves the
-- indexed columns as they were touches no index. Paths are too long for a tree, so they are hashed.
ALTER TABLE broker.lease
    ADD COLUMN member_id text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN session_id text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN cwd text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN pid bigint NOT NULL DEFAULT 0;

CREATE INDEX lease_session_idx ON broker.lease (session_id);
CREATE INDEX lease_cwd_idx ON broker.lease USING hash (cwd);

-- A hook's status that waits for its presence: some seconds, then nobody asks for it any more.
CREATE TABLE broker.pending_status (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id text COLLATE "C",
    cwd text COLLATE "C" NOT NULL,
    pid bigint,
    status text COLLATE "C" NOT NULL,
    -- Milliseconds since the Unix epoch, by the clock of the node that was told.
    created_at bigint NOT NULL
);

CREATE INDEX pending_status_session_idx ON broker.pending_status (session_id);
CREATE INDEX pending_status_cwd_idx ON broker.pending_status USING hash (cwd);
CREATE INDEX pending_status_created_idx ON broker.pending_status (created_at);

-- Commands that must not be executed again, with what was answered. Kept for a day.
CREATE TABLE broker.command (
    mesh_id text COLLATE "C" NOT NULL,
    command text COLLATE "C" NOT NULL,
    reply text NOT NULL,
    done_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (mesh_id, command)
);

CREATE INDEX command_done_idx ON broker.command (done_at);

-- What waits for a member's sessions, when the member is removed.
CREATE INDEX session_key_member_idx ON broker.session_key (mesh_id, member_id);
