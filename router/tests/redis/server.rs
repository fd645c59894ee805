//! Private Redis servers: on a free port, reachable from this machine only, keeping
//! nothing on disk. Needs nothing but std, so that the tests of other crates can include this file.
//!
//! Guarantees: a server ends with the test process, however that ends (a shell between the two
//! notices the closed pipe), and its folder with it; no other server is ever touched.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

/// Starts the server, tells its pid, and ends it when standard input does. Unless a line came
/// before, the test has died: nobody will need the folder.
const KEEPER: &str = r#"
dir=$1
shift
redis-server "$@" --dir "$dir" >"$dir/log" 2>&1 </dev/null &
pid=$!
echo "$pid"
read -r line || gone=1
kill -KILL "$pid" 2>/dev/null
wait "$pid"
if [ "$gone" ]; then rm -rf "$dir"; fi
"#;

/// How long a server may take to start, and to answer.
const SOON: Duration = Duration::from_secs(20);

static SERVERS: AtomicU32 = AtomicU32::new(0);

/// A server of our own.
pub(crate) struct Server {
    folder: PathBuf,
    settings: Vec<String>,
    port: u16,
    running: Mutex<Option<Running>>,
}

/// A started server: its pid, and the shell that ends it when the pipe closes.
struct Running {
    pid: u32,
    keeper: Child,
    pipe: ChildStdin,
}

impl Server {
    /// A server that answers.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A server with settings beside ours, such as `["--cluster-enabled", "yes"]`.
    pub(crate) fn with(settings: &[&str]) -> Self {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("router-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut server = Self { folder, settings, port: 0, running: Mutex::new(None) };
        // Another program may take the port between our asking for it and the server's: ask again.
        for _ in 0..5 {
            server.port = free_port();
            if server.try_start() {
                return server;
            }
        }
        panic!("Redis does not start: {}", server.log());
    }

    /// Starts it again on its port, empty, and waits until it answers.
    pub(crate) fn start(&self) {
        assert!(self.try_start(), "Redis does not start again: {}", self.log());
    }

    /// Ends it at once, paused or not. It keeps nothing.
    pub(crate) fn kill(&self) {
        let Some(mut running) = self.running.lock().unwrap().take() else { return };
        let _ = running.pipe.write_all(b"\n");
        drop(running.pipe);
        running.keeper.wait().unwrap();
    }

    /// Stops it from doing anything. Its connections stay.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it answers to a command, as it is on the wire; at most 64 KiB of it.
    pub(crate) fn ask<T: AsRef<[u8]>>(&self, command: &[T]) -> String {
        self.try_ask(command).unwrap()
    }

    /// The same, once the password is given.
    pub(crate) fn ask_with(&self, password: &str, command: &[&str]) -> String {
        let mut stream = self.connect().unwrap();
        stream.write_all(&request(&["AUTH", password])).unwrap();
        assert_eq!(line(&mut BufReader::new(&stream)), "+OK");
        stream.write_all(&request(command)).unwrap();
        line(&mut BufReader::new(&stream))
    }

    /// What is next published to a channel.
    pub(crate) fn overhear(&self, channel: &str, meanwhile: impl FnOnce()) -> Vec<u8> {
        let mut stream = BufReader::new(self.connect().unwrap());
        stream.get_mut().write_all(&request(&["SUBSCRIBE", channel])).unwrap();
        for _ in 0..6 {
            line(&mut stream); // *3 $9 subscribe $n channel :1
        }
        meanwhile();
        for _ in 0..5 {
            line(&mut stream); // *3 $7 message $n channel
        }
        let length = line(&mut stream)[1..].parse().unwrap();
        let mut message = vec![0; length];
        stream.read_exact(&mut message).unwrap();
        message
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    fn try_ask<T: AsRef<[u8]>>(&self, command: &[T]) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(&request(command))?;
        let mut answer = vec![0; 64 * 1024];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    fn try_start(&self) -> bool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "keeper"]).arg(&self.folder);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no"]).args(&self.settings);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.process_group(0);
        let mut keeper = command.spawn().unwrap();
        let mut said = BufReader::new(keeper.stdout.take().unwrap());
        let pid = line(&mut said).parse().unwrap();
        let pipe = keeper.stdin.take().unwrap();
        *self.running.lock().unwrap() = Some(Running { pid, keeper, pipe });
        let answers = self.answers(pid);
        if !answers {
            self.kill();
        }
        answers
    }

    /// Whether it is our process that answers on the port, before long.
    fn answers(&self, pid: u32) -> bool {
        let deadline = SystemTime::now() + SOON;
        let ours = format!("process_id:{pid}\r\n");
        while SystemTime::now() < deadline {
            match self.try_ask(&["INFO", "server"]) {
                Ok(answer) if answer.contains(&ours) => return true,
                Ok(answer) if answer.contains("process_id") => return false,
                _ if self.log().contains("Failed listening on port") => return false,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        false
    }

    fn signal(&self, signal: &str) {
        let pid = self.running.lock().unwrap().as_ref().unwrap().pid;
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn request<T: AsRef<[u8]>>(command: &[T]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", command.len()).into_bytes();
    for part in command.iter().map(AsRef::as_ref) {
        request.extend(format!("${}\r\n", part.len()).bytes());
        request.extend(part);
        request.extend(b"\r\n");
    }
    request
}

fn line(stream: &mut impl BufRead) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// A port nobody listens on at the moment, and that no connection is given as its own: a server that
/// was killed would not get it back, and its clients might connect to themselves.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number =
            std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + u16::try_from(number % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
