//! Who this process is, as other vmshm processes on this host can check, and
//! whether another one still runs.

use vmshm_link::slot::HostIdentity;

use crate::os;
pub(crate) use crate::os::start_time;

/// This process. Fields that cannot be read are zero, and nobody concludes anything
/// from such an identity.
#[must_use]
pub fn own_identity() -> HostIdentity {
    HostIdentity {
        boot_id: os::boot_id().unwrap_or_default(),
        pid_namespace: os::pid_namespace().unwrap_or_default(),
        pid: u64::from(std::process::id()),
        start_time: start_time(u64::from(std::process::id())).unwrap_or_default(),
    }
}

/// Whether `owner` was a process of this host, of our process numbers, that runs no
/// more. `false` where that cannot be told.
#[must_use]
pub fn is_known_dead(owner: &HostIdentity) -> bool {
    let ours = own_identity();
    let comparable = ours.boot_id != [0; 16]
        && ours.pid_namespace != 0
        && owner.start_time != 0
        && owner.boot_id == ours.boot_id
        && owner.pid_namespace == ours.pid_namespace;
    comparable && os::has_ended(owner.pid, owner.start_time)
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
        // This very program, waiting at the end of a pipe.
        let mut child = std::process::Command::new(std::env::current_exe().expect("named"))
            .args(["--exact", "identity::tests::waits", "--ignored"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
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
        assert!(
            is_known_dead(&of_child),
            "it holds nothing before it is reaped"
        );
        child.wait().expect("reaped");
        assert!(is_known_dead(&of_child));
    }

    #[test]
    #[ignore = "the other process of another test"]
    fn waits() {
        let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
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
