-- Hellos just accepted, by digest: mesh $1, digest $2, connection $3. What of these meshes is older
-- than $4 milliseconds cannot be shown again, and goes.
WITH hello AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS h (mesh_id, digest, conn)
),
forgotten AS (
    DELETE FROM broker.hello_seen s
    USING (SELECT DISTINCT mesh_id FROM hello) h
    WHERE s.mesh_id = h.mesh_id
        AND s.seen_at < clock_timestamp() - $4::bigint * interval '1 millisecond'
)
INSERT INTO broker.hello_seen (mesh_id, digest, conn)
SELECT mesh_id, digest, conn FROM hello
ON CONFLICT DO NOTHING
