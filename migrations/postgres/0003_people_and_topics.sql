-- What a member's connections leave behind, and topics with their history. Names and columns are
-- those of the reference broker's schema: nothing changes where its tables are there already, but
-- for columns and indexes that an older one lacks.

SET LOCAL lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS mesh.peer_state (
    id text PRIMARY KEY,
    mesh_id text NOT NULL REFERENCES mesh.mesh (id) ON DELETE CASCADE ON UPDATE CASCADE,
    member_id text NOT NULL REFERENCES mesh.member (id) ON DELETE CASCADE ON UPDATE CASCADE,
    groups jsonb DEFAULT '[]',
    profile jsonb DEFAULT '{}',
    visible boolean NOT NULL DEFAULT true,
    last_summary text,
    last_display_name text,
    cumulative_stats jsonb
        DEFAULT '{"messagesIn": 0, "messagesOut": 0, "toolCalls": 0, "errors": 0}',
    last_seen_at timestamp,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now(),
    UNIQUE (mesh_id, member_id)
);

DO $$ BEGIN
    CREATE TYPE mesh.topic_visibility AS ENUM ('public', 'private', 'dm');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN
    CREATE TYPE mesh.topic_member_role AS ENUM ('lead', 'member', 'observer');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;

CREATE TABLE IF NOT EXISTS mesh.topic (
    id text PRIMARY KEY,
    mesh_id text NOT NULL REFERENCES mesh.mesh (id) ON DELETE CASCADE ON UPDATE CASCADE,
    name text NOT NULL,
    description text,
    visibility mesh.topic_visibility NOT NULL DEFAULT 'public',
    created_by_member_id text
        REFERENCES mesh.member (id) ON DELETE SET NULL ON UPDATE CASCADE,
    created_at timestamp NOT NULL DEFAULT now(),
    archived_at timestamp,
    encrypted_key_pubkey text,
    UNIQUE (mesh_id, name)
);

CREATE TABLE IF NOT EXISTS mesh.topic_member (
    topic_id text NOT NULL REFERENCES mesh.topic (id) ON DELETE CASCADE ON UPDATE CASCADE,
    member_id text NOT NULL REFERENCES mesh.member (id) ON DELETE CASCADE ON UPDATE CASCADE,
    role mesh.topic_member_role NOT NULL DEFAULT 'member',
    joined_at timestamp NOT NULL DEFAULT now(),
    last_read_at timestamp,
    UNIQUE (topic_id, member_id)
);

CREATE TABLE IF NOT EXISTS mesh.topic_message (
    id text PRIMARY KEY,
    topic_id text NOT NULL REFERENCES mesh.topic (id) ON DELETE CASCADE ON UPDATE CASCADE,
    sender_member_id text NOT NULL
        REFERENCES mesh.member (id) ON DELETE CASCADE ON UPDATE CASCADE,
    sender_session_pubkey text,
    nonce text NOT NULL,
    ciphertext text NOT NULL,
    created_at timestamp NOT NULL DEFAULT now()
);

ALTER TABLE mesh.topic_message ADD COLUMN IF NOT EXISTS body_version integer NOT NULL DEFAULT 1;
ALTER TABLE mesh.topic_message ADD COLUMN IF NOT EXISTS reply_to_id text
    REFERENCES mesh.topic_message (id) ON DELETE SET NULL ON UPDATE CASCADE;

CREATE TABLE IF NOT EXISTS mesh.notification (
    id text PRIMARY KEY,
    mesh_id text NOT NULL REFERENCES mesh.mesh (id) ON DELETE CASCADE ON UPDATE CASCADE,
    topic_id text NOT NULL REFERENCES mesh.topic (id) ON DELETE CASCADE ON UPDATE CASCADE,
    message_id text NOT NULL
        REFERENCES mesh.topic_message (id) ON DELETE CASCADE ON UPDATE CASCADE,
    recipient_member_id text NOT NULL
        REFERENCES mesh.member (id) ON DELETE CASCADE ON UPDATE CASCADE,
    sender_member_id text NOT NULL
        REFERENCES mesh.member (id) ON DELETE CASCADE ON UPDATE CASCADE,
    kind text NOT NULL DEFAULT 'mention',
    created_at timestamp NOT NULL DEFAULT now(),
    read_at timestamp,
    UNIQUE (message_id, recipient_member_id)
);

ALTER TABLE mesh.member ADD COLUMN IF NOT EXISTS peer_grants jsonb NOT NULL DEFAULT '{}';
ALTER TABLE mesh.invite ADD COLUMN IF NOT EXISTS preset jsonb DEFAULT '{}';

CREATE INDEX IF NOT EXISTS topic_message_by_topic_created_idx
    ON mesh.topic_message (topic_id, created_at);
CREATE INDEX IF NOT EXISTS topic_message_reply_to_idx ON mesh.topic_message (reply_to_id);
CREATE INDEX IF NOT EXISTS topic_member_by_member_idx ON mesh.topic_member (member_id);
CREATE INDEX IF NOT EXISTS notification_by_recipient_idx
    ON mesh.notification (recipient_member_id, created_at DESC);

-- One count of a peer's, whatever a client once made of it.
CREATE OR REPLACE FUNCTION broker.total(stats jsonb, name text) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE jsonb_typeof(stats -> name)
        WHEN 'number' THEN greatest(trunc((stats ->> name)::numeric), 0) ELSE 0 END $$;
