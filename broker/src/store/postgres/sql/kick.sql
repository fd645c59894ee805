-- Key $2 of member $3, called $4, stays out of mesh $1 for $5 milliseconds. Of a mesh no more than
-- $6 are kept; those whose time is over go at the same occasion.
WITH gone AS (
    DELETE FROM broker.kicked
    WHERE mesh_id = $1 AND key <> $2 AND (
        until <= now() OR key IN (
            SELECT k.key
            FROM broker.kicked k
            WHERE k.mesh_id = $1 AND k.key <> $2
            ORDER BY k.until DESC
            OFFSET $6 - 1
        )
    )
)
INSERT INTO broker.kicked (mesh_id, key, member_id, name, until)
VALUES ($1, $2, $3, $4, now() + $5::bigint * interval '1 millisecond')
ON CONFLICT (mesh_id, key) DO UPDATE SET
    member_id = excluded.member_id, name = excluded.name, until = excluded.until
