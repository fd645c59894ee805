//! What the program says to those who use it wrongly, or have nothing to point it at.
#![expect(clippy::expect_used, reason = "a test that cannot go on should say where")]

use std::process::Command;

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest")).args(arguments).output();
    let output = output.expect("the program starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_run_that_cannot_be_done_is_told_from_one_that_found_fault() {
    let (code, said) =
        run(&["conformance", "--url", "http://127.0.0.1:1", "--mesh", "/nowhere/mesh.json"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/nowhere/mesh.json"), "{said}");
}

#[test]
fn an_unknown_command_is_refused() {
    assert_eq!(run(&["conform"]).0, Some(2));
}
