//! The guest's end of a pipe, `vmshm-agent pipe`, with something in the guest at its input and output.

use std::time::Duration;

use crate::guest::{Guest, Job, JobOutcome};
use crate::patience::{SOON, wait_until};
use crate::processes;

/// A guest's end that runs.
#[derive(Debug)]
pub struct GuestPipe<'a> {
    guest: &'a Guest,
    name: String,
    job: Job<'a>,
}

impl<'a> GuestPipe<'a> {
    /// Sends back what comes.
    #[must_use]
    pub fn echo(guest: &'a Guest, name: &str) -> Self {
        Self::between(guest, name, &format!("cat >{name}.in <{name}.out"))
    }

    /// Sends nothing, and prints the sha256 of what comes.
    #[must_use]
    pub fn receive(guest: &'a Guest, name: &str) -> Self {
        Self::between(guest, name, &format!(": >{name}.in; sha256sum <{name}.out"))
    }

    /// Sends so many random bytes, prints their sha256, and takes nothing but the end of what comes.
    #[must_use]
    pub fn send(guest: &'a Guest, name: &str, bytes: u64) -> Self {
        let take = format!("cat {name}.out >/dev/null &");
        let give = format!("head -c {bytes} /dev/urandom | tee {name}.in | sha256sum");
        Self::between(guest, name, &format!("{take} {give}"))
    }

    /// Runs `work` at the files NAME.in, which the pipe reads, and NAME.out, which it writes.
    #[must_use]
    pub fn between(guest: &'a Guest, name: &str, work: &str) -> Self {
        guest.check(&format!("rm -f {name}.*; mkfifo {name}.in {name}.out"));
        let job = guest.start(&format!(
            "vmshm-agent pipe {name} <{name}.in >{name}.out & pipe=$!\n\
             echo $pipe >{name}.pid\n\
             {work}\n\
             wait $pipe"
        ));
        Self {
            guest,
            name: name.to_owned(),
            job,
        }
    }

    /// The most memory that it has had at once, in bytes.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let pid = self.pid();
        processes::peak_in(&self.guest.check(&format!("cat /proc/{pid}/status")))
    }

    /// Its process in the guest.
    #[must_use]
    pub fn pid(&self) -> u32 {
        wait_until("process of the guest's end", SOON, || {
            let answer = self.guest.run(&format!("cat {}.pid", self.name));
            answer.text.trim().parse().ok()
        })
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        self.job.errors()
    }

    /// Waits for its end; the status is that of `vmshm-agent pipe`.
    #[must_use]
    pub fn wait(self, limit: Duration) -> JobOutcome {
        self.job.wait(limit)
    }
}
