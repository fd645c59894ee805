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

#[test]
fn a_fault_nobody_knows_is_refused_with_those_there_are() {
    let (code, said) = run(&["chaos", "--only", "earthquake"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("earthquake") && said.contains("freeze-owner"), "{said}");
}

#[test]
fn a_log_is_judged_by_itself_and_its_verdict_is_the_exit_code() {
    let path = std::env::temp_dir().join(format!("chaos-usage-{}.jsonl", std::process::id()));
    let client = |who: u32| {
        format!(
            r#"{{"ms":0,"who":{who},"event":"client","mesh":"m","member":"{who}","kind":"session","key":"{who}"}}"#
        )
    };
    let good = [
        r#"{"ms":0,"who":4294967295,"event":"settings","grace_ms":10000}"#.to_owned(),
        client(0),
        client(1),
        r#"{"ms":1,"who":1,"event":"connected","conn":1,"node":"node-1"}"#.to_owned(),
        r#"{"ms":2,"who":1,"event":"hello_ack","conn":1,"presence":"p"}"#.to_owned(),
        r#"{"ms":3,"who":0,"event":"sent","conn":1,"number":0,"to":1,"priority":"next","id":true}"#
            .to_owned(),
        r#"{"ms":4,"who":0,"event":"acked","conn":1,"number":0,"id":"x"}"#.to_owned(),
    ];
    let pushed = r#"{"ms":5,"who":1,"event":"pushed","conn":1,"id":"x","message":{"from":0,"number":0},"to":1,"acked":true}"#;
    let judge = |text: String| {
        std::fs::write(&path, text).expect("the folder for temporary files can be written to");
        run(&["chaos-check", &path.display().to_string()])
    };
    let lost = judge(good.join("\n"));
    let whole = judge(format!("{}\n{pushed}\n", good.join("\n")));
    let torn = judge(format!("{}\n{{\"ms\":", good.join("\n")));
    let _ = std::fs::remove_file(&path);
    assert_eq!((lost.0, whole.0), (Some(1), Some(0)), "{}", whole.1);
    assert_eq!(torn.0, Some(2));
    assert!(torn.1.contains("line 8"), "{}", torn.1);
}
