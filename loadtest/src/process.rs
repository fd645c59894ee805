//! What `/proc` tells of the broker's processes.

use crate::Error;

/// Clock ticks of `/proc/PID/stat`: 100 a second on every Linux, whatever the kernel's own rate.
const TICK_MICROS: u64 = 10_000;

/// Processor time spent so far, user and system, all threads, in microseconds.
pub(crate) fn cpu_micros(pids: &[u32]) -> Result<u64, Error> {
    pids.iter()
        .map(|pid| read(*pid, "stat", ticks))
        .sum::<Result<u64, _>>()
        .map(|t| t * TICK_MICROS)
}

/// Resident memory now, in KB.
pub(crate) fn rss_kb(pids: &[u32]) -> Result<u64, Error> {
    pids.iter().map(|pid| read(*pid, "status", |text| kb(text, "VmRSS:"))).sum()
}

/// The most there ever was of it, in KB.
pub(crate) fn peak_rss_kb(pids: &[u32]) -> Result<u64, Error> {
    pids.iter().map(|pid| read(*pid, "status", |text| kb(text, "VmHWM:"))).sum()
}

fn read(pid: u32, file: &str, find: impl Fn(&str) -> Option<u64>) -> Result<u64, Error> {
    let failed = |why: String| Error::Process { pid, why };
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))
        .map_err(|error| failed(error.to_string()))?;
    find(&text).ok_or_else(|| failed(format!("{file} has another shape than expected")))
}

/// utime and stime: fields 14 and 15. The second, the name, may hold blanks and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn kb(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 250 31 0 0 20 0 3 0 99";
        assert_eq!(ticks(stat), Some(281));
        assert_eq!(kb("VmHWM:\t  900 kB\nVmRSS:\t    812 kB\n", "VmRSS:"), Some(812));
        assert_eq!(kb("Name: x\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_can_be_read_and_none_cannot() {
        let me = [std::process::id()];
        assert!(cpu_micros(&me).is_ok());
        let (rss, peak) = (rss_kb(&me).unwrap(), peak_rss_kb(&me).unwrap());
        assert!(rss > 0 && peak >= rss / 2);
        assert!(rss_kb(&[u32::MAX]).is_err());
    }
}
