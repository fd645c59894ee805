-- Takes mesh $1 over for node $2: waits for whoever is committing under the old epoch, mints one
-- above it and above $3, by $4 and one at most. No row if there is no such mesh.
--
-- Leases in grace are moved so that "now" leaves out the time without an owner: what counts of a
-- grace ends with the last beat of the owner before. The new owner is noted as alive in the same
-- breath, so that a second activation right after this one starts from the same point.
WITH old AS (
    SELECT epoch FROM broker.mesh_owner WHERE mesh_id = $1 FOR UPDATE
),
raised AS (
    INSERT INTO broker.mesh_owner AS o (mesh_id, epoch, node, raised_at)
    SELECT m.id, least($3::bigint, $4::bigint) + 1, $2::text, now()
    FROM mesh.mesh m
    LEFT JOIN old ON true
    WHERE m.id = $1
    ON CONFLICT (mesh_id) DO UPDATE SET
        epoch = greatest(o.epoch, least($3::bigint, o.epoch + $4::bigint)) + 1,
        previous_node = o.node,
        node = excluded.node,
        raised_at = now()
    RETURNING epoch, previous_node
),
rebased AS (
    UPDATE broker.lease l
    SET away_at = now() - greatest(n.beat_at - l.away_at, interval '0')
    FROM raised r
    LEFT JOIN broker.node n ON n.node = r.previous_node
    WHERE l.mesh_id = $1 AND l.away_at IS NOT NULL
),
alive AS (
    INSERT INTO broker.node AS n (node, beat_at)
    SELECT $2::text, now() FROM raised
    ON CONFLICT (node) DO UPDATE SET beat_at = greatest(n.beat_at, excluded.beat_at)
)
SELECT epoch, coalesce((SELECT epoch FROM old), 0) AS previous FROM raised
