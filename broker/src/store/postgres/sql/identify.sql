-- Who is behind key $2 in mesh $1, and whose session key $3 is. With $4: also what the member left
-- behind, and what a hook said of session $5, or else of process $7 in directory $6, in the last
-- $8 milliseconds. Whether the hello of digest $9 was accepted in the last $10 milliseconds, and on
-- which connection.
SELECT
    coalesce(nullif(m.name, ''), nullif(m.slug, ''), m.id) AS mesh_name,
    m.archived_at IS NOT NULL AS archived,
    m.self_editable::text AS self_editable,
    k.member_id AS key_member,
    EXISTS (
        SELECT FROM mesh.member t WHERE t.mesh_id = m.id AND t.peer_pubkey IN ($3, upper($3))
    ) OR EXISTS (
        SELECT FROM broker.session_key t
        WHERE t.mesh_id = m.id AND t.key = $3
            AND (
                SELECT true FROM mesh.member r WHERE r.id = t.member_id COLLATE "default" LIMIT 1
            )
    ) OR coalesce(lower(m.owner_pubkey) = $3, false) AS key_taken,
    (
        SELECT s.conn FROM broker.hello_seen s
        WHERE s.mesh_id = m.id AND s.digest = $9
            AND s.seen_at > clock_timestamp() - $10::bigint * interval '1 millisecond'
    ) AS seen_by,
    NOT EXISTS (
        SELECT FROM mesh.member o
        WHERE o.mesh_id = m.id AND o.peer_pubkey <> $2 AND o.revoked_at IS NULL
    ) AS alone,
    p.id, p.peer_pubkey, p.display_name, p.role::text AS role, p.role_tag,
    p.default_groups::text AS default_groups, p.message_mode, p.revoked_at IS NOT NULL AS revoked,
    coalesce(p.user_id = m.owner_user_id, false)
        OR coalesce(lower(p.peer_pubkey) = lower(m.owner_pubkey), false) AS owner,
    p.peer_grants::text AS grants,
    s.id IS NOT NULL AS saved,
    s.groups::text AS saved_groups, s.profile::text AS saved_profile, s.visible AS saved_visible,
    s.last_summary AS saved_summary, s.cumulative_stats::text AS saved_stats,
    floor(extract(epoch FROM s.last_seen_at) * 1000)::bigint AS saved_seen_at,
    h.id AS pending_id, h.status AS pending_status
FROM mesh.mesh m
-- A key of a member that was removed or deleted is nobody's. Our ids are collated otherwise than
-- those of members, whose index needs theirs.
LEFT JOIN broker.session_key k ON k.mesh_id = m.id AND k.key = $3
    AND (
        SELECT r.revoked_at IS NULL
        FROM mesh.member r
        WHERE r.id = k.member_id COLLATE "default"
        LIMIT 1
    )
LEFT JOIN LATERAL (
    SELECT *
    FROM mesh.member p
    WHERE p.mesh_id = m.id AND p.peer_pubkey = $2
    ORDER BY p.revoked_at IS NOT NULL, p.joined_at, p.id
    LIMIT 1
) p ON true
LEFT JOIN LATERAL (
    SELECT *
    FROM mesh.peer_state s
    WHERE $4 AND s.mesh_id = m.id AND s.member_id = p.id
    LIMIT 1
) s ON true
LEFT JOIN LATERAL (
    SELECT h.id, h.status
    FROM (
        SELECT h.id, h.status, h.created_at, true AS by_session
        FROM broker.pending_status h
        WHERE h.session_id = $5
        UNION ALL
        SELECT h.id, h.status, h.created_at, false
        FROM broker.pending_status h
        WHERE h.cwd = $6 AND h.pid = $7
    ) h
    WHERE $4 AND p.revoked_at IS NULL
        AND abs((extract(epoch FROM now()) * 1000)::bigint - h.created_at) <= $8
    ORDER BY h.by_session DESC, h.created_at DESC, h.id DESC
    LIMIT 1
) h ON p.id IS NOT NULL
WHERE m.id = $1
