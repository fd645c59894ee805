-- The living topic of mesh $1 whose id is $2, else the one whose name is $3, with its members.
SELECT
    t.id, t.name,
    ARRAY(
        SELECT tm.member_id
        FROM mesh.topic_member tm
        CROSS JOIN LATERAL (
            SELECT FROM mesh.member m
            WHERE m.id = tm.member_id AND m.mesh_id = $1 AND m.revoked_at IS NULL
            LIMIT 1
        ) m
        WHERE tm.topic_id = t.id
        ORDER BY tm.joined_at, tm.member_id
    ) AS members
FROM (
    SELECT t.id, t.name, 0 AS rank
    FROM mesh.topic t
    WHERE t.id = $2 AND t.mesh_id = $1 AND t.archived_at IS NULL
    UNION ALL
    SELECT t.id, t.name, 1
    FROM mesh.topic t
    WHERE t.mesh_id = $1 AND t.name = $3 AND t.archived_at IS NULL
) t
ORDER BY t.rank
LIMIT 1
