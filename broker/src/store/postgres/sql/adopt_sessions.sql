-- Whose the session keys $2 of mesh $1 were, and whether the member had proven it.
SELECT DISTINCT ON (p.session_pubkey) p.session_pubkey, p.member_id, p.role = 'session' AS proven
FROM mesh.presence p
JOIN mesh.member m ON m.id = p.member_id AND m.mesh_id = $1 AND m.revoked_at IS NULL
WHERE p.session_pubkey = ANY ($2)
ORDER BY p.session_pubkey, p.role = 'session' DESC, p.connected_at, p.id
