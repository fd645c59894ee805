-- Times are milliseconds since the Unix epoch. Names and columns of mesh, member, invite and
-- audit_log are the reference's, as far as they mean something here.

CREATE TABLE mesh (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    owner_user_id TEXT NOT NULL,
    owner_pubkey TEXT,
    owner_secret_key TEXT,
    root_key TEXT,
    self_editable TEXT NOT NULL
        DEFAULT '{"displayName":true,"roleTag":true,"groups":true,"messageMode":true}',
    created_at INTEGER NOT NULL,
    archived_at INTEGER
) STRICT;

CREATE UNIQUE INDEX mesh_living_slug ON mesh (slug) WHERE archived_at IS NULL;

CREATE TABLE member (
    id TEXT PRIMARY KEY,
    mesh_id TEXT NOT NULL REFERENCES mesh ON DELETE CASCADE,
    user_id TEXT,
    peer_pubkey TEXT NOT NULL,
    display_name TEXT NOT NULL,
    role TEXT NOT NULL DEFAULT 'member',
    joined_at INTEGER NOT NULL,
    revoked_at INTEGER,
    role_tag TEXT,
    default_groups TEXT NOT NULL DEFAULT '[]',
    message_mode TEXT NOT NULL DEFAULT 'push'
) STRICT;

-- Not unique: a member removed and invited again has two rows.
CREATE INDEX member_key ON member (mesh_id, peer_pubkey);

CREATE TABLE invite (
    id TEXT PRIMARY KEY,
    mesh_id TEXT NOT NULL REFERENCES mesh ON DELETE CASCADE,
    token TEXT NOT NULL UNIQUE,
    max_uses INTEGER NOT NULL DEFAULT 1,
    used_count INTEGER NOT NULL DEFAULT 0,
    role TEXT NOT NULL DEFAULT 'member',
    expires_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mesh_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    actor_member_id TEXT,
    actor_display_name TEXT,
    payload TEXT NOT NULL DEFAULT '{}',
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX audit_log_mesh ON audit_log (mesh_id, id);

-- The fence. `taken_at`: when the owner took it. `tail`: the highest sequence that retention has
-- removed, so that no sequence is given twice.
CREATE TABLE mesh_owner (
    mesh_id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    node TEXT NOT NULL,
    taken_at INTEGER NOT NULL,
    tail INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- When each node was last known to be alive.
CREATE TABLE node (
    node TEXT PRIMARY KEY,
    beat_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The large columns come last: what looks for the small ones does not read them. `recipients`:
-- everyone it was resolved to when it was accepted, separated by spaces; `shared`: more than one.
CREATE TABLE envelope (
    mesh_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    lane INTEGER NOT NULL,
    shared INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    delivered_at INTEGER,
    sender_member_id TEXT NOT NULL,
    accept_kind TEXT NOT NULL,
    accept_key TEXT NOT NULL,
    sender_member_pubkey TEXT NOT NULL,
    sender_session_pubkey TEXT,
    sender_name TEXT NOT NULL,
    priority TEXT NOT NULL,
    fingerprint TEXT,
    reply_to TEXT,
    subtype TEXT,
    target TEXT NOT NULL,
    recipients TEXT NOT NULL,
    nonce TEXT NOT NULL,
    ciphertext TEXT NOT NULL,
    PRIMARY KEY (mesh_id, seq)
) STRICT;

-- What waits. A row goes when its recipient confirms. `shared` rows of an envelope can be found
-- from it; one that is alone needs no index for that.
CREATE TABLE delivery (
    mesh_id TEXT NOT NULL,
    recipient TEXT NOT NULL,
    lane INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    shared INTEGER NOT NULL,
    PRIMARY KEY (mesh_id, recipient, lane, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX delivery_shared ON delivery (mesh_id, seq) WHERE shared;

-- The body goes with the last delivery.
CREATE TRIGGER delivery_was_last AFTER DELETE ON delivery
WHEN NOT old.shared OR NOT EXISTS (
    SELECT 1 FROM delivery WHERE mesh_id = old.mesh_id AND seq = old.seq AND shared
)
BEGIN
    UPDATE envelope
    SET nonce = '', ciphertext = '',
        delivered_at = CAST(round(unixepoch('subsec') * 1000) AS INTEGER)
    WHERE mesh_id = old.mesh_id AND seq = old.seq;
END;

CREATE TABLE accepted (
    mesh_id TEXT NOT NULL,
    member_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    message_id TEXT NOT NULL,
    fingerprint TEXT,
    PRIMARY KEY (mesh_id, member_id, kind, key)
) STRICT, WITHOUT ROWID;

-- `away_at`: since when its holder is away, by a clock that stands still while the mesh has no
-- owner (every activation moves it on).
CREATE TABLE lease (
    mesh_id TEXT NOT NULL,
    presence_id TEXT NOT NULL,
    body TEXT NOT NULL,
    away_at INTEGER,
    PRIMARY KEY (mesh_id, presence_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE session_key (
    mesh_id TEXT NOT NULL,
    key TEXT NOT NULL,
    member_id TEXT NOT NULL,
    PRIMARY KEY (mesh_id, key)
) STRICT, WITHOUT ROWID;

-- Written to see whether the store takes writes.
CREATE TABLE canary (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    written_at INTEGER NOT NULL
) STRICT;
