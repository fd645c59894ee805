//! What the settings promise.

use super::*;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn from_env(env: &[(&str, &str)]) -> Result<Config, Mistakes> {
    Config::from(pairs(env), [])
}

fn mistakes(env: &[(&str, &str)]) -> Vec<String> {
    match from_env(env) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn nothing_set_gives_the_defaults() {
    let config = from_env(&[("HOSTNAME", "box-1")]).unwrap();
    assert!(config.database_url.is_none() && config.redis_url.is_none());
    assert_eq!(&*config.data_dir, Path::new("./data"));
    assert_eq!((config.bind_addr.to_string().as_str(), config.broker_port), ("0.0.0.0", 7900));
    assert_eq!(&*config.broker_ws_url, "ws://127.0.0.1:7900/ws");
    assert_eq!(config.max_connections_per_mesh, 100);
    assert_eq!((config.max_message_bytes, config.max_frame_bytes), (65_536, 2_097_152));
    assert_eq!((config.send_rate_per_minute, config.send_burst), (60, 10));
    assert_eq!(config.lease_grace, Duration::from_secs(90));
    assert_eq!(config.hello_timeout, Duration::from_secs(10));
    assert_eq!(config.half_open_per_address, 512);
    assert_eq!(config.offline_direct, OfflineDirect::Reject);
    assert_eq!(config.drain, Duration::from_secs(8));
    assert_eq!(&*config.node_id, "box-1");
    assert_eq!(config.node_heartbeat, Duration::from_millis(500));
    assert_eq!(config.node_ttl, Duration::from_secs(3));
    assert_eq!(config.node_env, NodeEnv::Development);
    assert_eq!(&*config.log_level, "info");
    assert!(!config.skip_migrate && config.git_sha.is_none());
}

#[test]
fn every_default_is_a_value_its_own_parser_takes() {
    for setting in SETTINGS {
        if let table::Default::Is(text) = setting.default {
            assert_eq!((setting.set)(&mut Config::blank(), text), Ok(()), "{}", setting.name);
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_an_empty_one_asks_for_the_default() {
    let env = [("BROKER_PORT", "1"), ("SEND_BURST", "2"), ("DATABASE_URL", "postgres://h/d")];
    let flags = [("BROKER_PORT", "3"), ("DATABASE_URL", "")];
    let reading = Reading::of(pairs(&env), pairs(&flags));
    let config = reading.config(Purpose::Serve).unwrap();
    assert_eq!((config.broker_port, config.send_burst), (3, 2));
    assert!(config.database_url.is_none());
    assert_eq!(&*config.broker_ws_url, "ws://127.0.0.1:3/ws");
    let source = |name| reading.values().iter().find(|v| v.setting.name == name).unwrap().source;
    assert_eq!(source("BROKER_PORT"), Source::Flag);
    assert_eq!(source("SEND_BURST"), Source::Environment);
    assert_eq!(source("DATABASE_URL"), Source::Default);
}

#[test]
fn an_empty_variable_is_not_set() {
    assert_eq!(from_env(&[("BROKER_PORT", ""), ("DATABASE_URL", " ")]).unwrap().broker_port, 7900);
}

#[test]
fn all_mistakes_are_told_at_once_with_their_mends() {
    let found = mistakes(&[
        ("SEND_RATE_PER_MINUTE", "abc"),
        ("MAX_MESSAGE_BYTES", "0"),
        ("BROKER_PORT", "70000"),
        ("OFFLINE_DIRECT", "maybe"),
        ("BIND_ADDR", "localhost"),
        ("LOG_LEVEL", "inof"),
        ("MAX_SERVICES_PER_MESH", "-1"),
        ("BROKER_PROT", "1"),
        ("NODE_TTL_MS", "1000"),
    ]);
    let expected = [
        "BROKER_PROT: no such setting; did you mean BROKER_PORT?",
        "BROKER_PORT=70000: a whole number ≤ 65535 is expected; e.g. 7900",
        "BIND_ADDR=localhost: an IP address is expected; e.g. 0.0.0.0",
        "MAX_MESSAGE_BYTES=0: a whole number ≥ 1 is expected; e.g. 65536",
        "SEND_RATE_PER_MINUTE=abc: a whole number ≥ 0 is expected; e.g. 60",
        "OFFLINE_DIRECT=maybe: one of reject, queue is expected; e.g. reject",
        "LOG_LEVEL=inof: a level (off, error, warn, info, debug, trace), or several like \
         info,broker=debug is expected; e.g. info",
        "MAX_SERVICES_PER_MESH=-1: a whole number ≥ 1 is expected; e.g. 20",
        "NODE_TTL_MS=1000 is less than 3 × NODE_HEARTBEAT_MS=500: one late heartbeat would count \
         as a death; set NODE_TTL_MS to 1500 or more",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_mistake_names_the_flag_it_came_with() {
    let wrong = Config::from([], pairs(&[("SEND_BURST", "x")])).unwrap_err();
    assert_eq!(wrong.0[0].to_string(), "--send-burst x: a whole number ≥ 0 is expected; e.g. 10");
}

#[test]
fn names_one_typo_away_are_refused_and_strangers_are_not() {
    for (name, meant) in [
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATABASE_URLS", "DATABASE_URL"),
        ("DATABASE_ULR", "DATABASE_URL"),
        ("database_url", "DATABASE_URL"),
        ("Send_Burts", "SEND_BURST"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("MAX_SERVICE_PER_MESH", "MAX_SERVICES_PER_MESH"),
    ] {
        let expected = format!("{name}: no such setting; did you mean {meant}?");
        assert_eq!(mistakes(&[(name, "postgres://u:secret@h/d")]), [expected]);
    }
    for stranger in ["PATH", "PORT", "API_URL", "NODE_IP", "DATABASE", "HOSTNAME", "LOG"] {
        assert_eq!(mistakes(&[(stranger, "x")]), [""; 0], "{stranger}");
    }
}

#[test]
fn contradictions_are_refused() {
    let only = |env: &[(&str, &str)]| {
        let found = mistakes(env);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    assert!(only(&[("REDIS_URL", "redis://h")]).starts_with("REDIS_URL without DATABASE_URL"));
    assert!(only(&[("SEND_BURST", "0")]).starts_with("SEND_BURST=0 with a SEND_RATE"));
    assert!(only(&[("MAX_MESSAGE_BYTES", "4000000")]).contains("more than MAX_FRAME_BYTES"));
    assert_eq!(mistakes(&[("SEND_BURST", "0"), ("SEND_RATE_PER_MINUTE", "0")]), [""; 0]);
}

#[test]
fn a_cluster_needs_a_secret_to_serve_and_none_for_the_tools() {
    let urls = [("REDIS_URL", "redis://h"), ("DATABASE_URL", "postgres://h/d")];
    let reading = Reading::of(pairs(&urls), []);
    let refused = reading.config(Purpose::Serve).unwrap_err().to_string();
    assert!(refused.contains("openssl rand -hex 32"), "{refused}");
    assert!(reading.config(Purpose::Tools).is_ok());
    let short = mistakes(&[&urls[..], &[("CLUSTER_SECRET", "hunter2")]].concat());
    assert!(short[0].contains("at least 32") && !short[0].contains("hunter2"), "{short:?}");
    let long = [&urls[..], &[("CLUSTER_SECRET", "0123456789abcdef0123456789abcdef")]].concat();
    assert_eq!(mistakes(&long), [""; 0]);
}

#[test]
fn a_machine_of_fly_io_knows_its_name_and_region() {
    let config = from_env(&[("FLY_MACHINE_ID", "148e21"), ("FLY_REGION", "fra")]).unwrap();
    assert_eq!((&*config.node_id, config.region.as_deref()), ("148e21", Some("fra")));
}

#[test]
fn secrets_are_masked_in_errors_values_and_debug() {
    let secrets = [
        ("DATABASE_URL", "mysql://root:hunter2@h/db"),
        ("REDIS_URL", "host=h password=hunter2"),
        ("NEO4J_URL", "bolt://neo4j:hunter2@h"),
        ("CLI_SYNC_SECRET", "hunter2"),
        ("BROKER_WS_URL", "https://u:hunter2@h/ws"),
    ];
    let reading = Reading::of(pairs(&secrets), []);
    let told = reading.config(Purpose::Serve).unwrap_err().to_string();
    let shown: String = reading.values().iter().map(Value::shown).collect();
    assert!(!told.contains("hunter2") && told.contains("DATABASE_URL=mysql://root:***@h/db"));
    assert!(!shown.contains("hunter2") && shown.contains("bolt://neo4j:***@h"));
    let config = from_env(&[("DATABASE_URL", "postgres://u:hunter2@h/db")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.database_url.unwrap().expose(), "postgres://u:hunter2@h/db");
}

#[test]
fn names_that_sound_secret_are_secret() {
    for setting in SETTINGS {
        let name = setting.name.trim_end_matches("_PREVIOUS");
        let sounds = ["_KEY", "_SECRET", "TOKEN", "PASSWORD"].iter().any(|end| name.ends_with(end));
        assert_eq!(sounds, setting.secrecy == Secrecy::Hidden, "{}", setting.name);
    }
}

#[test]
fn names_are_unique_and_flags_are_kebab() {
    let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SETTINGS.len());
    assert!(SETTINGS.iter().any(|setting| setting.flag() == "max-connections-per-mesh"));
}

/// When this fails: `cargo run -- print-readme-table` prints the table that README should hold.
#[test]
fn readme_shows_the_table() {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("<!-- settings:begin -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- settings:end -->").unwrap();
    assert!(table == markdown(), "run `cargo run -- print-readme-table` and paste it into README");
}
