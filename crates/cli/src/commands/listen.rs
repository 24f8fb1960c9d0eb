//! `vmshm listen`: takes the connections of agents, shows which VM each is tied to, and
//! carries their bells.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use vmshm_host::listen::{Event, Listener, Machine, Processes};
use vmshm_link::rendezvous::message::Announce;

use crate::arguments::Global;
use crate::failure::Failure;
use crate::interruption::Interruption;
use crate::os;
use crate::output;

/// How long a wait may last before the signals are looked at once more.
const TURN: Duration = Duration::from_millis(250);
/// So many refusals are told within [`WINDOW`]; the rest is only counted.
const TOLD: usize = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// `vmshm listen`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints a line for each agent that is tied to its VM: process, VMM, name, the beacon's\naddress, and the peer. While it runs, other commands of the same user with --no-scan and\nwithout --beacon use the addresses it has learned, and programs that share regions\nwake the guest's sleeping programs through it, and are woken: all that works without it, and\nsleepers then look again by themselves. It ends at Ctrl-C or SIGTERM, and when nobody reads\nits output any more.\n\nA serial line carries one agent at a time; either side may be restarted.\n\nExamples:\n  vmshm listen 127.0.0.1:7001\n  vmshm listen vsock:7001 serial:/run/web-serial\n  vmshm region create web/shared --size 64M --no-scan\n\nIn the guest (QEMU's user network shows the host's 127.0.0.1 as 10.0.2.2):\n  vmshm-agent run --connect tcp:10.0.2.2:7001\n  vmshm-agent run --connect vsock:2:7001\n  vmshm-agent run --connect serial:/dev/virtio-ports/vmshm    (QEMU: -chardev socket,id=vmshm,\n      path=/run/web-serial,server=on,wait=off -device virtserialport,chardev=vmshm,name=vmshm)"
)]
pub(crate) struct Listen {
    /// Where to listen: HOST:PORT, vsock:PORT, or serial:PATH of a Unix socket or terminal;
    /// port 0 takes a free one, and says which
    #[arg(value_name = "ADDR", required = true)]
    pub(crate) addresses: Vec<String>,
    /// Print JSON objects, one on each line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs it.
pub(crate) fn run(listen: &Listen, global: &Global) -> Result<(), Failure> {
    let interruption = Interruption::watch()?;
    let method = global.attach()?.method;
    let lookout = Box::new(Processes { method });
    let mut listener = Listener::bind(&listen.addresses, global.patience(), lookout)?;
    let mut voice = Voice::new(global.quiet);
    if let Err(error) = listener.record_ties() {
        voice.say(&format!(
            "note: other commands cannot use what is learned: {}",
            Failure::from_error(&error, None)
        ));
    } else if let Err(error) = listener.relay_bells() {
        voice.say(&format!(
            "note: programs cannot be woken through this listener: {}",
            Failure::from_error(&error, None)
        ));
    }
    for address in listener.addresses() {
        voice.say(&format!("listening at {address}"));
    }
    let mut printed = Ok(());
    while !interruption.came() && printed.is_ok() && !os::reader_has_left() {
        listener.turn(TURN, &mut |event| match event {
            Event::Tied {
                peer,
                machine,
                announce,
            } => {
                let line = tied(&peer.to_string(), machine, announce, listen.json);
                if printed.is_ok() {
                    printed = output::print_at_once(&line);
                }
            }
            Event::Left { peer, machine, why } => voice.say(&format!(
                "{} (process {}) at {peer} has left: {why}",
                machine.name, machine.pid
            )),
            Event::Refused { peer, why } => voice.refuse(&format!("refused {peer}: {why}")),
            Event::NotRecorded(error) => voice.say(&format!(
                "note: other commands cannot use what is learned: {}",
                Failure::from_error(&error, None)
            )),
        })?;
        voice.sum_up();
    }
    output::tolerate_broken_pipe(printed)
        .map_err(|error| Failure::from_error(&error, None).because("writing the output"))
}

fn tied(peer: &str, machine: &Machine, announce: &Announce, as_json: bool) -> String {
    if as_json {
        let object = json!({
            "pid": machine.pid,
            "vmm": machine.vmm,
            "name": machine.name,
            "beacon": announce.beacon.0,
            "peer": peer,
            "agent_version": announce.version.as_str(),
            "guest_name": announce.name.as_str(),
        });
        return format!("{object}\n");
    }
    // Whoever started the VM chose its name.
    let line = format!(
        "{}  {}  {}  {}  {peer}",
        machine.pid, machine.vmm, machine.name, announce.beacon
    );
    format!("{}\n", output::plain(&line))
}

/// What is said on stderr: not more than somebody can read, whoever knocks how often.
struct Voice {
    quiet: bool,
    window: Instant,
    refusals: usize,
}

impl Voice {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            window: Instant::now(),
            refusals: 0,
        }
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            // Nobody may listen.
            let _ = writeln!(std::io::stderr(), "{}", output::plain(line));
        }
    }

    fn refuse(&mut self, line: &str) {
        self.sum_up();
        self.refusals += 1;
        if self.refusals <= TOLD {
            self.say(line);
        }
    }

    /// At the end of a window, how many refusals were not told.
    fn sum_up(&mut self) {
        if self.window.elapsed() < WINDOW {
            return;
        }
        if self.refusals > TOLD {
            self.say(&format!("refused {} more", self.refusals - TOLD));
        }
        self.window = Instant::now();
        self.refusals = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_link::GuestPhysical;
    use vmshm_link::fields::Text;

    #[test]
    fn names_that_others_chose_stay_on_their_line() {
        let machine = Machine {
            pid: 1,
            start_time: 1,
            vmm: "qemu".to_owned(),
            name: "web\n2  qemu\u{1b}[2J".to_owned(),
        };
        let announce = Announce {
            beacon: GuestPhysical(0x1000),
            epoch: 1,
            boot_id: [0; 16],
            version: Text::new("1.0.0"),
            name: Text::new("web"),
        };
        let text = tied("127.0.0.1:9", &machine, &announce, false);
        let name = "web\\n2  qemu\\u{1b}[2J";
        assert_eq!(text, format!("1  qemu  {name}  0x1000  127.0.0.1:9\n"));
        let json = tied("127.0.0.1:9", &machine, &announce, true);
        assert_eq!(json.lines().count(), 1);
    }
}
