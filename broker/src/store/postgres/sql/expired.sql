-- The next $4 envelopes of mesh $1 above $2, and whether each was accepted before $3.
SELECT seq, created_at < $3 AS expired
FROM broker.envelope
WHERE mesh_id = $1 AND seq > $2
ORDER BY mesh_id, seq
LIMIT $4
