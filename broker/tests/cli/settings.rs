//! Settings as an operator meets them.

use crate::support::Home;

#[test]
fn check_config_lists_every_mistake_and_shows_no_password() {
    let env = [
        ("SEND_RATE_PER_MINUTE", "abc"),
        ("BROKER_PORTS", "1"),
        ("DATABASE_URL", "mysql://root:hunter2@db/mesh"),
        ("NODE_TTL_MS", "600"),
    ];
    let told = Home::new().run_with(&env, &["check-config", "--send-burst", "-1"]).refusal(1);
    for part in [
        "error: 5 mistakes in the settings:",
        "SEND_RATE_PER_MINUTE=abc: a whole number ≥ 0 is expected; e.g. 60",
        "--send-burst -1: a whole number ≥ 0 is expected; e.g. 10",
        "BROKER_PORTS: no such setting; did you mean BROKER_PORT?",
        "DATABASE_URL=mysql://root:***@db/mesh: a URL that starts with postgres://",
        "NODE_TTL_MS=600 is less than 3 × NODE_HEARTBEAT_MS=500",
    ] {
        assert!(told.contains(part), "{part} is missing:\n{told}");
    }
    assert!(!told.contains("hunter2"));
}

#[test]
fn check_config_names_the_store() {
    let home = Home::new();
    let sqlite = home.run(&["check-config"]).answer();
    assert_eq!(sqlite, "ok: would keep everything in SQLite at ./data/claudemesh.sqlite\n");
    let env = [("DATABASE_URL", "postgres://u:hunter2@db/mesh")];
    let postgres = home.run_with(&env, &["check-config"]).answer();
    assert_eq!(postgres, "ok: would keep everything in Postgres at postgres://u:***@db/mesh\n");
}

#[test]
fn print_config_shows_values_and_sources_and_masks_secrets() {
    let env = [
        ("DATABASE_URL", "postgres://u:hunter2@db/mesh"),
        ("CLI_SYNC_SECRET", "hunter2"),
        ("SEND_BURST", "20"),
        ("HOSTNAME", "box-1"),
    ];
    let shown = Home::new().run_with(&env, &["print-config", "--broker-port", "8000"]).answer();
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect())
        .collect();
    for row in [
        ["DATABASE_URL", "postgres://u:***@db/mesh", "environment"],
        ["CLI_SYNC_SECRET", "***", "environment, without effect here"],
        ["SEND_BURST", "20", "environment"],
        ["BROKER_PORT", "8000", "flag"],
        ["BROKER_WS_URL", "ws://127.0.0.1:8000/ws", "default"],
        ["NODE_ID", "box-1", "default"],
        ["REDIS_URL", "(not set)", "default"],
    ] {
        assert!(rows.iter().any(|found| found == &row), "{row:?} is missing:\n{shown}");
    }
    assert!(!shown.contains("hunter2"));
}

#[test]
fn print_config_shows_what_it_can_of_a_wrong_configuration() {
    let ran = Home::new().run_with(&[("BROKER_PORT", "x")], &["print-config"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("SEND_BURST") && ran.stderr.contains("BROKER_PORT=x"));
}

#[test]
fn serve_refuses_a_cluster_without_a_secret_before_it_starts_anything() {
    let env = [("DATABASE_URL", "postgres://db/mesh"), ("REDIS_URL", "redis://r")];
    for words in [&["serve"][..], &[]] {
        let told = Home::new().run_with(&env, words).refusal(1);
        assert!(told.contains("CLUSTER_SECRET") && told.contains("openssl"), "{told}");
    }
}

#[test]
fn wrong_usage_is_2_and_help_and_version_are_0() {
    let home = Home::new();
    assert_eq!(home.run(&["dance"]).code, 2);
    assert_eq!(home.run(&["--no-such-flag", "1"]).code, 2);
    assert_eq!(home.run(&["mesh"]).code, 2);
    assert_eq!(home.run(&["mesh", "create", "Bad_Slug"]).code, 2);
    assert_eq!(home.run(&["mesh", "invite", "m", "--expires", "soon"]).code, 2);
    let help = home.run(&["--help"]).answer();
    assert!(help.contains("--max-connections-per-mesh") && help.contains("check-config"));
    assert!(!home.run(&["-h"]).answer().contains("--max-connections-per-mesh"));
    assert!(home.run(&["--version"]).answer().starts_with("claudemesh-broker "));
}

#[test]
fn shells_get_their_completions() {
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        let script = Home::new().run(&["completions", shell]).answer();
        assert!(script.contains(part) && script.contains("check-config"), "{shell}");
    }
    assert_eq!(Home::new().run(&["completions", "basic"]).code, 2);
}

#[test]
fn connecting_says_how_a_file_stands() {
    let home = Home::new();
    let shown = home.run(&["check-config", "--connect"]).answer();
    assert!(shown.contains("it does not exist yet, and can be made"), "{shown}");
    assert!(!home.path().join("data").exists(), "asking makes nothing");
    home.run(&["migrate"]).answer();
    let shown = home.run(&["check-config", "--connect"]).answer();
    for part in ["it can be written to", "no node runs on it", "is on disk"] {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
}

#[test]
fn a_store_that_is_not_there_is_waited_for_and_then_told() {
    let env = [
        ("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/mesh"),
        ("STORE_WAIT_SECONDS", "1"),
        ("BIND_ADDR", "127.0.0.1"),
        ("BROKER_PORT", "0"),
    ];
    for words in ["serve", "migrate"] {
        let told = Home::new().run_with(&env, &[words]).refusal(1);
        assert!(told.contains("waiting for the store"), "{told}");
        assert!(told.contains("connection refused") && !told.contains("hunter2"), "{told}");
    }
    let ran = Home::new().run_with(&env, &["check-config", "--connect"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("REFUSED  connecting: connection: connection refused"));
}

#[test]
fn without_a_cluster_status_asks_the_node_on_this_machine() {
    let told = Home::new().run(&["status", "--broker-port", "1"]).refusal(1);
    assert!(told.contains("no node answers at 127.0.0.1:1"), "{told}");
}

#[test]
fn the_readme_table_can_be_printed() {
    assert!(
        Home::new().run(&["print-readme-table"]).answer().contains("| `BROKER_PORT` | `7900` |")
    );
}
