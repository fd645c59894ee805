-- At most $3 session keys of mesh $1 that nobody has proven in the last $2 milliseconds, that no
-- presence holds and nothing waits for: what waits for a key must not outlive it.
DELETE FROM broker.session_key
WHERE ctid = ANY (ARRAY(
    SELECT k.ctid
    FROM broker.session_key k
    WHERE k.mesh_id = $1 AND k.proven_at < now() - $2::bigint * interval '1 millisecond'
        AND NOT EXISTS (
            SELECT FROM broker.delivery d
            WHERE d.mesh_id = $1 AND d.recipient = 's:' || k.key
        )
        AND NOT EXISTS (
            SELECT FROM broker.lease l WHERE l.mesh_id = $1 AND strpos(l.body, k.key) > 0
        )
    LIMIT $3
))
