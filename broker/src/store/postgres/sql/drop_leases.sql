DELETE FROM broker.lease
WHERE ctid = ANY (ARRAY(
    SELECT l.place
    FROM unnest($1::text[], $2::text[]) AS g (mesh_id, presence_id)
    CROSS JOIN LATERAL (
        SELECT l.ctid AS place
        FROM broker.lease l
        WHERE l.mesh_id = g.mesh_id AND l.presence_id = g.presence_id
        LIMIT 1
    ) l
))
