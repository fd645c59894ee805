//! A process of ours that ends with us, however we end: a small shell watches a pipe from us, and
//! kills its charge when the pipe closes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use tokio::time::{Duration, Instant, sleep};

use crate::Error;

/// `$1` is the signal to end it by, `$2` a folder to remove then, or nothing; the rest is the
/// program. Tells the pid, and ends as the program does.
const KEEPER: &str = r#"
exec 3<&0
how=$1 folder=$2
shift 2
"$@" 3<&- </dev/null >&2 &
pid=$!
echo "$pid"
exec >/dev/null
{
    if read -r _ <&3; then exit; fi
    trap '' TERM
    kill -CONT "$pid"
    kill "-$how" "$pid"
    if [ -n "$folder" ]; then
        while kill -0 "$pid"; do sleep 0.1; done
        rm -rf "$folder"
    fi
} 2>/dev/null &
watch=$!
wait "$pid"
code=$?
exec 3<&-
kill "$watch" 2>/dev/null
exit "$code"
"#;

/// How often it is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What to start.
pub(super) struct Program {
    pub(super) command: Command,
    /// The signal that ends it when we are gone.
    pub(super) end: &'static str,
    /// Removed when we are gone.
    pub(super) folder: Option<String>,
}

pub(super) struct Child {
    pid: u32,
    keeper: std::process::Child,
    /// Open as long as we are.
    pipe: Option<ChildStdin>,
}

impl Program {
    pub(super) fn new(path: &Path) -> Self {
        Self { command: Command::new(path), end: "KILL", folder: None }
    }

    /// Starts it; what it says goes to the end of `log`.
    pub(super) fn start(&self, log: &Path) -> Result<Child, Error> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut keeper = Command::new("/bin/sh");
        keeper.arg("-c").arg(KEEPER).arg("keeper").arg(self.end);
        keeper.arg(self.folder.as_deref().unwrap_or_default());
        keeper.arg(self.command.get_program()).args(self.command.get_args());
        keeper.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                keeper.env(name, value);
            }
        }
        if let Some(folder) = self.command.get_current_dir() {
            keeper.current_dir(folder);
        }
        if let Some((uid, gid)) = self.folder.as_ref().and_then(|_| super::postgres::servant()) {
            keeper.uid(uid).gid(gid);
        }
        // A group of its own: an interrupt from the terminal is for us alone.
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let mut keeper = keeper.spawn()?;
        let pipe = keeper.stdin.take();
        let mut line = String::new();
        if let Some(said) = keeper.stdout.take() {
            BufReader::new(said).read_line(&mut line)?;
        }
        let pid = line.trim().parse().map_err(|_| {
            Error::Cluster(format!("{} does not start", self.command.get_program().display()))
        })?;
        Ok(Child { pid, keeper, pipe })
    }
}

impl Child {
    /// Sends a signal, `KILL` for one. A process that has ended does not mind.
    pub(super) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.pid.to_string()]).stderr(Stdio::null());
        let _ = kill.status();
    }

    /// Its exit code, as a shell tells it, once it has ended.
    pub(super) fn ended(&mut self) -> Option<i32> {
        self.keeper.try_wait().ok().flatten().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for that.
    pub(super) async fn end(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            let code = self.ended();
            if code.is_some() || Instant::now() >= deadline {
                return code;
            }
            sleep(LOOK).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() && self.pipe.take().is_some() {
            self.signal("KILL");
            let _ = self.keeper.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut program = Program::new(Path::new("/bin/sh"));
        program.command.args(["-c", script]);
        program.start(Path::new("/dev/null")).unwrap()
    }

    fn runs(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    async fn ends(pid: u32) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while runs(pid) {
            assert!(Instant::now() < deadline, "it still runs");
            sleep(LOOK).await;
        }
    }

    #[tokio::test]
    async fn how_a_program_ended_is_told() {
        let limit = Duration::from_secs(5);
        assert_eq!(shell("exit 3").end(limit).await, Some(3));
        let mut killed = shell("exec sleep 60");
        assert_eq!(killed.ended(), None);
        killed.signal("KILL");
        assert_eq!(killed.end(limit).await, Some(128 + 9));
        let mut asked = shell("trap 'exit 0' TERM; while :; do sleep 0.1; done");
        sleep(Duration::from_millis(200)).await;
        asked.signal("TERM");
        assert_eq!(asked.end(limit).await, Some(0));
    }

    #[tokio::test]
    async fn it_ends_with_its_owner_even_if_it_was_stopped_and_its_owner_killed() {
        let dropped = shell("exec sleep 60");
        let pid = dropped.pid;
        dropped.signal("STOP");
        drop(dropped);
        ends(pid).await;

        let mut orphan = shell("exec sleep 60");
        let pid = orphan.pid;
        orphan.signal("STOP");
        // The system closes the pipe of a killed owner.
        orphan.pipe = None;
        ends(pid).await;
    }
}
