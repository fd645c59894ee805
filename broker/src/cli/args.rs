//! The words and flags, and what may follow them.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use protocol::limits::NAME_BYTES;

use super::invite::{DEFAULT_DAYS, DEFAULT_USES};
use crate::config::{Group, SETTINGS, Secrecy};

/// A first mesh with thousands of members is a slip of the finger; a load test needs hundreds.
const MAX_MEMBERS: i64 = 1000;

/// Characters of a slug. It is part of file names, links and shell commands.
const SLUG_CHARS: usize = 64;

/// The longest an invite may last: a year. Whoever finds an old link can still join.
const MAX_EXPIRY_SECONDS: i64 = 365 * 24 * 3600;

/// The whole command line. Settings may stand before or after the command.
pub fn command() -> Command {
    Command::new("claudemesh-broker")
        .version(crate::build::VERSION)
        .about("A claudemesh broker: carries end-to-end encrypted messages between AI sessions.")
        .long_about(
            "A claudemesh broker: carries end-to-end encrypted messages between AI sessions.\n\n\
             Without a command it serves. With nothing configured it keeps everything in a SQLite \
             file under ./data and listens on port 7900.",
        )
        .after_help(
            "Every setting is also an environment variable (BROKER_PORT for --broker-port); \
             `--help` lists them, `print-config` shows which values are in effect.",
        )
        .subcommand(Command::new("serve").about("Run a node (also what happens without a command)"))
        .subcommand(mesh())
        .subcommand(Command::new("migrate").about("Bring the tables up to date, then exit"))
        .subcommand(status())
        .subcommand(audit())
        .subcommand(
            Command::new("health")
                .about("Ask the node on this machine whether it runs; exit code 1 if it does not"),
        )
        .subcommand(
            Command::new("check-config")
                .about("Check every setting and say all that is wrong, with how to mend it")
                .arg(
                    Arg::new("connect")
                        .long("connect")
                        .action(ArgAction::SetTrue)
                        .help("Also try the store and Redis, and say how they stand"),
                ),
        )
        .subcommand(
            Command::new("print-config")
                .about("Show every setting in effect and where it comes from; secrets are masked"),
        )
        .subcommand(
            Command::new("completions")
                .about("Print the completions of a shell, for its folder of completions")
                .arg(Arg::new("shell").required(true).value_parser(value_parser!(Shell))),
        )
        .subcommand(Command::new("print-readme-table").hide(true))
        .args(setting_flags())
}

/// The settings given as flags: (setting, text).
pub fn flags(matches: &ArgMatches) -> Vec<(String, String)> {
    // A flag behind a subcommand is known to the innermost one; clap carries it no further up.
    let mut levels = vec![matches];
    while let Some((_, inner)) = levels.last().and_then(|matches| matches.subcommand()) {
        levels.push(inner);
    }
    let given = |name: &str| levels.iter().rev().find_map(|level| level.get_one::<String>(name));
    SETTINGS
        .iter()
        .filter_map(|setting| Some((setting.name.to_owned(), given(setting.name)?.clone())))
        .collect()
}

fn setting_flags() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|setting| {
        let mut help = setting.what.replace('`', "");
        if let Some(default) = setting.shown_default().filter(|_| setting.secrecy == Secrecy::Open)
        {
            help = format!("{help} [default: {}]", default.replace('`', ""));
        }
        let arg = Arg::new(setting.name)
            .long(setting.flag())
            .value_name("VALUE")
            .global(true)
            // A negative number is then told as a mistake with its mend, not as an unknown flag.
            .allow_negative_numbers(true)
            .help_heading("Settings")
            .hide_short_help(true)
            .help(help);
        // Of no consequence here; README lists them.
        arg.hide(setting.group == Group::Accepted)
    })
}

fn status() -> Command {
    Command::new("status")
        .about("Show the nodes of the cluster, or how a mesh stands")
        .long_about(
            "Show the nodes of the cluster, or how a mesh stands.\n\nReads Redis and the store \
             directly, with the settings a node on this machine would have. Where there is no Redis, \
             the one node there may be is asked over its port.",
        )
        .arg(
            Arg::new("mesh")
                .long("mesh")
                .value_name("ID")
                .help("A mesh: its owner, epoch, presences and waiting deliveries"),
        )
        .arg(json("Print JSON instead"))
}

fn audit() -> Command {
    let verify = Command::new("verify")
        .about("Verify the audit chains, whole, and say where one is broken")
        .long_about(
            "Verify the audit chains, whole, and say where one is broken; then the exit code is 1.\n\n\
             Reads the store directly and writes nothing; a node may run meanwhile.",
        )
        .arg(
            Arg::new("mesh")
                .long("mesh")
                .value_name("SLUG|ID")
                .help("Only this mesh [default: all of them]"),
        )
        .arg(json("Print a JSON array instead"));
    Command::new("audit")
        .about("Verify the audit chains")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(verify)
}

fn mesh() -> Command {
    Command::new("mesh")
        .about("Create and list meshes, and invite people to them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(create())
        .subcommand(
            Command::new("list").about("List the meshes").arg(json("Print a JSON array instead")),
        )
        .subcommand(invite())
}

fn create() -> Command {
    Command::new("create")
        .about("Create a mesh with its first members, their keys and an invite")
        .long_about(
            "Create a mesh with its first members, their keys and an invite.\n\n\
             The first member is an admin. The secret keys are printed once and kept nowhere: \
             each member needs theirs to connect. Works before the first `serve`, and while a \
             node runs.",
        )
        .arg(
            Arg::new("slug")
                .value_parser(slug)
                .required(true)
                .help("Short name: lower-case letters, digits and dashes, 1 to 64 of them"),
        )
        .arg(
            Arg::new("name")
                .long("name")
                .value_name("NAME")
                .value_parser(display_name)
                .help("Name to show [default: the slug]"),
        )
        .arg(
            Arg::new("member")
                .long("member")
                .value_name("NAME")
                .value_parser(display_name)
                .action(ArgAction::Append)
                .help("A member; once for each [default: one, called \"me\"]"),
        )
        .arg(
            Arg::new("members")
                .long("members")
                .value_name("COUNT")
                .value_parser(value_parser!(u64).range(1..=MAX_MEMBERS as u64))
                .conflicts_with("member")
                .help("So many members, called p0, p1, p2 …"),
        )
        .arg(
            Arg::new("owner-user")
                .long("owner-user")
                .value_name("ID")
                .value_parser(display_name)
                .default_value("local")
                .help("User id of the owner, where a web application shares the database"),
        )
        .arg(
            Arg::new("config-dir")
                .long("config-dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Write each member's client configuration to DIR/<member>/config.json"),
        )
        .arg(json("Print one JSON document instead"))
}

fn invite() -> Command {
    Command::new("invite")
        .about("Make a link with which people join a mesh")
        .arg(Arg::new("mesh").value_name("SLUG|ID").required(true).help("The mesh"))
        .arg(
            Arg::new("role")
                .long("role")
                .value_parser(PossibleValuesParser::new(["member", "admin"]))
                .default_value("member")
                .help("Role of those who join with it"),
        )
        .arg(
            Arg::new("uses")
                .long("uses")
                .value_name("N")
                .value_parser(value_parser!(u32).range(1..=1_000_000))
                .help(format!("How many may join with it [default: {DEFAULT_USES}]")),
        )
        .arg(
            Arg::new("expires")
                .long("expires")
                .value_name("TIME")
                .value_parser(expiry)
                .help(format!("How long it lasts: 12h, 30m or seconds [default: {DEFAULT_DAYS}d]")),
        )
}

fn json(help: &'static str) -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help(help)
}

fn slug(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=SLUG_CHARS).contains(&text.len()) && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a slug has 1 to 64 lower-case letters, digits and dashes".into())
    }
}

fn display_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if !text.is_empty() && text.len() <= NAME_BYTES && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!("a name has 1 to {NAME_BYTES} bytes and no control characters"))
    }
}

/// Seconds.
fn expiry(text: &str) -> Result<i64, String> {
    let units = [('d', 24 * 3600), ('h', 3600), ('m', 60), ('s', 1)];
    let (digits, unit) = units
        .iter()
        .find_map(|(letter, seconds)| Some((text.strip_suffix(*letter)?, *seconds)))
        .unwrap_or((text, 1));
    digits
        .parse::<u32>()
        .ok()
        .and_then(|count| i64::from(count).checked_mul(unit))
        .filter(|seconds| (1..=MAX_EXPIRY_SECONDS).contains(seconds))
        .ok_or_else(|| "a time is like 7d, 12h, 30m or 3600 (seconds), at most 365d".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn settings_are_found_before_and_behind_the_command() {
        let words =
            ["x", "--data-dir", "d", "mesh", "--send-burst", "-1", "list", "--broker-port", "1"];
        let given = flags(&command().get_matches_from(words));
        let mut given: Vec<_> = given.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        given.sort_unstable();
        assert_eq!(given, [("BROKER_PORT", "1"), ("DATA_DIR", "d"), ("SEND_BURST", "-1")]);
    }

    #[test]
    fn times_and_slugs_are_read_strictly() {
        assert_eq!(expiry("7d"), Ok(604_800));
        assert_eq!(expiry("12h"), Ok(43_200));
        assert_eq!(expiry("30m"), Ok(1800));
        assert_eq!(expiry("90"), Ok(90));
        for wrong in ["", "0", "-1", "d", "1w", "366d", "99999999999d", "1.5h"] {
            assert!(expiry(wrong).is_err(), "{wrong}");
        }
        assert!(slug("red-1").is_ok() && slug(&"a".repeat(64)).is_ok());
        for wrong in ["", "Red", "a b", "ä", "a_b", &"a".repeat(65)] {
            assert!(slug(wrong).is_err(), "{wrong}");
        }
    }
}
