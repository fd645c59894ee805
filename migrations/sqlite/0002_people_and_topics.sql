-- What a member's connections leave behind, topics with their history, and what hooks find.

ALTER TABLE member ADD COLUMN peer_grants TEXT NOT NULL DEFAULT '{}';

ALTER TABLE invite ADD COLUMN preset TEXT NOT NULL DEFAULT '{}';

ALTER TABLE envelope ADD COLUMN topic TEXT;

CREATE TABLE peer_state (
    mesh_id TEXT NOT NULL REFERENCES mesh ON DELETE CASCADE,
    member_id TEXT NOT NULL REFERENCES member ON DELETE CASCADE,
    groups TEXT NOT NULL DEFAULT '[]',
    profile TEXT NOT NULL DEFAULT '{}',
    visible INTEGER NOT NULL DEFAULT 1,
    last_summary TEXT,
    last_display_name TEXT,
    messages_in INTEGER NOT NULL DEFAULT 0,
    messages_out INTEGER NOT NULL DEFAULT 0,
    tool_calls INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    last_seen_at INTEGER,
    PRIMARY KEY (mesh_id, member_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE topic (
    id TEXT PRIMARY KEY,
    mesh_id TEXT NOT NULL REFERENCES mesh ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT,
    visibility TEXT NOT NULL DEFAULT 'public',
    created_by_member_id TEXT REFERENCES member ON DELETE SET NULL,
    created_at INTEGER NOT NULL,
    archived_at INTEGER,
    encrypted_key_pubkey TEXT,
    UNIQUE (mesh_id, name)
) STRICT;

CREATE TABLE topic_member (
    topic_id TEXT NOT NULL REFERENCES topic ON DELETE CASCADE,
    member_id TEXT NOT NULL REFERENCES member ON DELETE CASCADE,
    role TEXT NOT NULL DEFAULT 'member',
    joined_at INTEGER NOT NULL,
    last_read_at INTEGER,
    PRIMARY KEY (topic_id, member_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX topic_member_member ON topic_member (member_id);

CREATE TABLE topic_message (
    id TEXT PRIMARY KEY,
    topic_id TEXT NOT NULL REFERENCES topic ON DELETE CASCADE,
    sender_member_id TEXT NOT NULL REFERENCES member ON DELETE CASCADE,
    sender_session_pubkey TEXT,
    created_at INTEGER NOT NULL,
    body_version INTEGER NOT NULL DEFAULT 1,
    reply_to_id TEXT REFERENCES topic_message ON DELETE SET NULL,
    nonce TEXT NOT NULL,
    ciphertext TEXT NOT NULL
) STRICT;

CREATE INDEX topic_message_topic ON topic_message (topic_id, created_at);
CREATE INDEX topic_message_reply ON topic_message (reply_to_id);

CREATE TABLE notification (
    id TEXT PRIMARY KEY,
    mesh_id TEXT NOT NULL REFERENCES mesh ON DELETE CASCADE,
    topic_id TEXT NOT NULL REFERENCES topic ON DELETE CASCADE,
    message_id TEXT NOT NULL REFERENCES topic_message ON DELETE CASCADE,
    recipient_member_id TEXT NOT NULL REFERENCES member ON DELETE CASCADE,
    sender_member_id TEXT NOT NULL REFERENCES member ON DELETE CASCADE,
    kind TEXT NOT NULL DEFAULT 'mention',
    created_at INTEGER NOT NULL,
    read_at INTEGER,
    UNIQUE (message_id, recipient_member_id)
) STRICT;

CREATE INDEX notification_recipient ON notification (recipient_member_id, created_at);

-- What hooks name a presence by.
ALTER TABLE lease ADD COLUMN member_id TEXT NOT NULL DEFAULT '';
ALTER TABLE lease ADD COLUMN session_id TEXT NOT NULL DEFAULT '';
ALTER TABLE lease ADD COLUMN cwd TEXT NOT NULL DEFAULT '';
ALTER TABLE lease ADD COLUMN pid INTEGER NOT NULL DEFAULT 0;

CREATE INDEX lease_session ON lease (session_id);
CREATE INDEX lease_process ON lease (cwd, pid);

-- A hook's status that waits for its presence: some seconds, then nobody asks for it any more.
CREATE TABLE pending_status (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT,
    cwd TEXT NOT NULL,
    pid INTEGER,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX pending_status_session ON pending_status (session_id);
CREATE INDEX pending_status_process ON pending_status (cwd, pid);
CREATE INDEX pending_status_created ON pending_status (created_at);

-- Commands that must not be executed again, with what was answered. Kept for a day.
CREATE TABLE command (
    mesh_id TEXT NOT NULL,
    command TEXT NOT NULL,
    reply TEXT NOT NULL,
    done_at INTEGER NOT NULL,
    PRIMARY KEY (mesh_id, command)
) STRICT, WITHOUT ROWID;

CREATE INDEX command_done ON command (done_at);

CREATE INDEX session_key_member ON session_key (mesh_id, member_id);
