//! Names the commit and its date, for `--version` and `/health`; and collects the migrations.
//!
//! The commit is known of release builds only: everything that is built for tests would be built anew
//! after each commit. Where there is no repository, as in a container, `GIT_SHA` and `GIT_DATE` say it.
//!
//! `sqlx::migrate!` would do for the migrations, but a macro that knows databases has to be built with
//! them, SQLite included, a second time.

#![expect(clippy::expect_used, reason = "a build that cannot go on should say where")]
#![expect(clippy::disallowed_methods, reason = "cargo tells a build by its environment")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Hexadecimal digits of a commit that people are shown.
const SHORT: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GIT_SHA");
    println!("cargo::rerun-if-env-changed=GIT_DATE");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let (mut commit, mut date) = (String::new(), String::new());
    if is_release {
        commit = said("GIT_SHA").or_else(|| git(&["rev-parse", "HEAD"])).unwrap_or_default();
        date = said("GIT_DATE")
            .or_else(|| git(&["show", "-s", "--format=%cs", "HEAD"]))
            .unwrap_or_default();
        // Written with every commit and every change of branch.
        if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
            && Path::new(&log).exists()
        {
            println!("cargo::rerun-if-changed={log}");
        }
    }
    commit.truncate(SHORT);
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let details: Vec<&str> =
        [commit.as_str(), date.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
    let version = match details.as_slice() {
        [] => version,
        some => format!("{version} ({})", some.join(", ")),
    };
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=BUILD_VERSION={version}");

    let out = std::env::var("OUT_DIR").expect("cargo says where to");
    let lists = [("POSTGRES", "../migrations/postgres"), ("SQLITE", "../migrations/sqlite")];
    let lists = lists.map(|(name, folder)| migrations(name, Path::new(folder)));
    fs::write(Path::new(&out).join("migrations.rs"), lists.concat()).expect("cargo's folder");
}

/// A constant with each file's number, title and text, in their order: `0001_a_title.sql`.
fn migrations(name: &str, folder: &Path) -> String {
    println!("cargo::rerun-if-changed={}", folder.display());
    let folder = folder.canonicalize().expect("the migrations are beside the broker");
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let mut list = format!("/// Number, title and text of each.\nconst {name}: &[Sql] = &[\n");
    for path in files {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let (number, title) = stem.split_once('_').expect("a number, then a title");
        let number: i64 = number.parse().expect("a number");
        let title = title.replace('_', " ");
        let path = path.to_str().expect("a path in Unicode");
        let _ = writeln!(list, "    ({number}, {title:?}, include_str!({path:?})),");
    }
    list + "];\n"
}

/// A variable that is set to something.
fn said(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What git says, where there is a git and a repository.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
