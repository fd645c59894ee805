-- Who there is: meshes, members, invites, the audit chain. Names and columns are those of the
-- reference broker's schema, so that this file adopts its database as it finds it (every statement
-- is a no-op there but for the indexes) and completes an empty one. No web tables are needed:
-- where the reference points at public.user we keep a plain text column.

SET LOCAL lock_timeout = '5s';

CREATE SCHEMA IF NOT EXISTS mesh;

DO $$ BEGIN
    CREATE TYPE mesh.visibility AS ENUM ('private', 'public');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN
    CREATE TYPE mesh.transport AS ENUM ('managed', 'tailscale', 'self_hosted');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN
    CREATE TYPE mesh.tier AS ENUM ('free', 'pro', 'team', 'enterprise');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN
    CREATE TYPE mesh.role AS ENUM ('admin', 'member');
EXCEPTION WHEN duplicate_object THEN NULL; END $$;

CREATE TABLE IF NOT EXISTS mesh.mesh (
    id text PRIMARY KEY,
    name text NOT NULL,
    slug text NOT NULL,
    owner_user_id text NOT NULL,
    visibility mesh.visibility NOT NULL DEFAULT 'private',
    transport mesh.transport NOT NULL DEFAULT 'managed',
    max_peers integer,
    tier mesh.tier NOT NULL DEFAULT 'free',
    created_at timestamp NOT NULL DEFAULT now(),
    archived_at timestamp,
    owner_pubkey text,
    owner_secret_key text,
    root_key text,
    self_editable jsonb DEFAULT
        '{"displayName": true, "roleTag": true, "groups": true, "messageMode": true}'
);

CREATE TABLE IF NOT EXISTS mesh.member (
    id text PRIMARY KEY,
    mesh_id text NOT NULL REFERENCES mesh.mesh (id) ON DELETE CASCADE ON UPDATE CASCADE,
    user_id text,
    peer_pubkey text NOT NULL,
    display_name text NOT NULL,
    role mesh.role NOT NULL DEFAULT 'member',
    joined_at timestamp NOT NULL DEFAULT now(),
    last_seen_at timestamp,
    revoked_at timestamp,
    role_tag text,
    default_groups jsonb DEFAULT '[]',
    message_mode text DEFAULT 'push',
    dashboard_user_id text,
    peer_grants jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE IF NOT EXISTS mesh.invite (
    id text PRIMARY KEY,
    mesh_id text NOT NULL REFERENCES mesh.mesh (id) ON DELETE CASCADE ON UPDATE CASCADE,
    token text NOT NULL UNIQUE,
    token_bytes text,
    code text,
    max_uses integer NOT NULL DEFAULT 1,
    used_count integer NOT NULL DEFAULT 0,
    role mesh.role NOT NULL DEFAULT 'member',
    preset jsonb DEFAULT '{}',
    expires_at timestamp NOT NULL,
    created_by text NOT NULL,
    created_at timestamp NOT NULL DEFAULT now(),
    revoked_at timestamp,
    version integer NOT NULL DEFAULT 1,
    capability_v2 text,
    claimed_by_pubkey text
);

CREATE TABLE IF NOT EXISTS mesh.audit_log (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mesh_id text NOT NULL REFERENCES mesh.mesh (id) ON DELETE CASCADE ON UPDATE CASCADE,
    event_type text NOT NULL,
    actor_member_id text,
    actor_display_name text,
    payload jsonb NOT NULL DEFAULT '{}',
    prev_hash text NOT NULL,
    hash text NOT NULL,
    created_at timestamp NOT NULL DEFAULT now()
);

CREATE UNIQUE INDEX IF NOT EXISTS invite_code_unique_idx ON mesh.invite (code)
    WHERE code IS NOT NULL;

-- Every hello looks a member up by key; the reference read the whole table for it.
CREATE INDEX IF NOT EXISTS member_mesh_pubkey_idx ON mesh.member (mesh_id, peer_pubkey);
-- Slugs are unique among living meshes only, which create_mesh sees to.
CREATE INDEX IF NOT EXISTS mesh_slug_idx ON mesh.mesh (slug);
-- The end of a mesh's chain, read at every activation.
CREATE INDEX IF NOT EXISTS audit_log_mesh_chain_idx ON mesh.audit_log (mesh_id, id);
