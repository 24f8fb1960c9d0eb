//! Who this process is, as other vmshm processes on this host can check, and
//! whether another one still runs.

use std::fs;
use std::os::unix::fs::MetadataExt;

use vmshm_link::slot::HostIdentity;

/// This process. Fields that cannot be read are zero, and nobody concludes anything
/// from such an identity.
#[must_use]
pub fn own_identity() -> HostIdentity {
    HostIdentity {
        boot_id: boot_id().unwrap_or_default(),
        pid_namespace: pid_namespace().unwrap_or_default(),
        pid: u64::from(std::process::id()),
        start_time: start_time(u64::from(std::process::id())).unwrap_or_default(),
    }
}

/// Whether `owner` was a process of this host, in our pid namespace, that runs no
/// more. `false` where that cannot be told.
#[must_use]
pub fn is_known_dead(owner: &HostIdentity) -> bool {
    let ours = own_identity();
    let comparable = ours.boot_id != [0; 16]
        && ours.pid_namespace != 0
        && owner.start_time != 0
        && owner.boot_id == ours.boot_id
        && owner.pid_namespace == ours.pid_namespace;
    comparable && start_time(owner.pid) != Some(owner.start_time)
}

fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

fn pid_namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid")
        .ok()
        .map(|meta| meta.ino())
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)); nothing for a process that is
/// gone or only a zombie.
pub(crate) fn start_time(pid: u64) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold spaces and parentheses; the rest starts after the last one.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // Field 3 was the state; 22 is the 19th from there.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_an_ended_child_is_dead() {
        let own = own_identity();
        assert!(own.start_time > 0 && own.pid_namespace > 0);
        assert!(!is_known_dead(&own));
        let mut reused = own;
        reused.start_time += 1;
        assert!(is_known_dead(&reused), "another process has that pid now");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let of_child = HostIdentity {
            pid: u64::from(child.id()),
            start_time: start_time(u64::from(child.id())).expect("it runs"),
            ..own
        };
        assert!(!is_known_dead(&of_child));
        child.kill().expect("killed");
        while start_time(of_child.pid).is_some() {
            std::thread::yield_now();
        }
        assert!(is_known_dead(&of_child), "a zombie holds nothing");
        child.wait().expect("reaped");
        assert!(is_known_dead(&of_child));
    }

    #[test]
    fn a_process_of_another_host_is_never_called_dead() {
        let mut other = own_identity();
        other.pid = u64::MAX;
        other.boot_id[0] ^= 1;
        assert!(!is_known_dead(&other));
        assert!(!is_known_dead(&HostIdentity::default()));
    }
}
