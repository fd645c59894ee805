-- Which members hold leases is asked every second, of all meshes: without the leases' bodies.

CREATE INDEX lease_member ON lease (mesh_id, member_id);
