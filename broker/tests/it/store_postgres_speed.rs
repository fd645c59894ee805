//! Not a promise but a figure: `cargo test --release -- --ignored --nocapture speed_on_postgres`.

use broker::model::{AuditRow, MeshCommit, Unit, Write};
use broker::store::Store;

use crate::support::scene::{Scene, accept, ben, committed, confirm};

fn audit(seq: u64) -> Write {
    Write::Audit(AuditRow {
        event: "message_sent",
        actor: Some("ana".into()),
        actor_name: Some("Ana".into()),
        payload: format!("{{\"priority\":\"next\",\"targetSpec\":\"{}\"}}", "b".repeat(64)),
        prev_hash: format!("{:064}", seq - 1),
        hash: format!("{seq:064}"),
        created_at: 1_750_000_000_000,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn speed_on_postgres() {
    for size in [64, 128, 256] {
        for audited in [false, true, false, true] {
            let scene = Scene::start().await;
            let (mesh, epoch) = scene.mesh("red").await;
            let total: u64 = 100_000;
            let started = tokio::time::Instant::now();
            let mut seq = 1;
            while seq <= total {
                let mut units: Vec<Unit> = (seq..seq + size)
                    .map(|seq| {
                        let mut writes = vec![accept(seq, &[ben()])];
                        if audited {
                            writes.push(audit(seq));
                        }
                        Unit(writes)
                    })
                    .collect();
                if seq > size {
                    units.extend((seq - size..seq).map(|seq| Unit(vec![confirm(seq, &ben())])));
                }
                let batch = [MeshCommit { mesh: mesh.clone(), epoch, units }];
                assert_eq!(scene.store.commit(0, &batch).await.unwrap(), [committed()]);
                seq += size;
            }
            let rate = u128::from(total) * 1000 / started.elapsed().as_millis();
            println!("batches of {size}, audited {audited}: {rate} msg/s");
        }
    }
}
