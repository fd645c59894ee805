//! What the wire contract says, asked from outside: `loadtest conformance`, which knows nothing of
//! this broker.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::node::{Kind, Node, on_each_store};

on_each_store!(the_wire_is_as_clients_know_it);

async fn the_wire_is_as_clients_know_it(kind: Kind) {
    // As it is out of the box: other tests send as fast as they like.
    let rate = [("SEND_RATE_PER_MINUTE", "60"), ("SEND_BURST", "10")];
    let node = Node::start(kind, &rate).await;
    let names: Vec<String> = (0..24).map(|number| format!("p{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let file = node.mesh_file("conformance", &names).await;
    let mut command = Command::new(loadtest());
    command.args(["conformance", "--json", "--url", &format!("http://{}", node.address())]);
    command.arg("--mesh").arg(&file);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| {
        panic!("no report: {said}\n{}", String::from_utf8_lossy(&output.stderr))
    });
    let rows = report["checks"].as_array().unwrap();
    let failed: Vec<_> = rows.iter().filter(|row| row["outcome"] == "fail").collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}");
    let passed = report["passed"].as_u64().unwrap();
    assert!(passed > 160, "only {passed} of {} were asked", rows.len());
}

/// Built beside the broker whenever the workspace is tested.
fn loadtest() -> String {
    let broker = Path::new(env!("CARGO_BIN_EXE_claudemesh-broker"));
    let path = broker.with_file_name("loadtest");
    assert!(path.exists(), "{} is not built: test the workspace", path.display());
    path.display().to_string()
}
