//! What the user's last `list` saw of each VM, so that the next one need not wait for
//! a heartbeat: where beacons lay and how far their pulses were, at what time.
//!
//! It may only ever save time. A beacon is searched and read anew each time, and a
//! remembered pulse speaks for life only where the count in memory now shows that the
//! last beat was a moment ago; everything else is waited for. The file lies in a
//! directory that nobody else can write, or it is not used.

use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;

use vmshm_link::beacon::{KEEPER_BEAT_MILLIS, Signs};

use crate::identity::own_identity;
pub(crate) use crate::os::milliseconds_since_boot as now;
use crate::user_directory::{self, NoteDirectory};

/// The file's name in its directory.
const FILE: &str = "beacons";
/// No file of ours is longer.
const LONGEST: u64 = 1 << 20;
/// The most beacons that are remembered of one VM.
const MOST_BEACONS: usize = 8;
/// The most VMs that are remembered though they were not looked at this time, and how
/// long.
const MOST_VMS: usize = 256;
const REMEMBERED_MILLIS: u64 = 600_000;
/// How long ago the last beat may have been. A beat and what delays one, and no more: a
/// guest that has just died must not be called alive.
const FRESH_MILLIS: u64 = 600;

/// A beacon that was seen alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeenBeacon {
    /// Where the VMM has it.
    pub(crate) address: u64,
    /// The keeper's life that it belongs to.
    pub(crate) epoch: u64,
    /// How often the keeper's heart had beaten.
    pub(crate) keeper_pulse: u64,
    /// How often the agent's had.
    pub(crate) agent_pulse: u64,
    /// When one of them last beat, at the earliest.
    pub(crate) beat_at: u64,
    /// When that was read, or a moment before.
    pub(crate) read_at: u64,
}

impl SeenBeacon {
    /// When a heart last beat at the earliest, now that these pulses are read. Two beats
    /// of the keeper are never less than their period apart, so so many beats have taken
    /// at least so long. The agent beats as it likes, but where it has, that was after it
    /// was last looked at. Nothing for what no guest of ours does.
    fn last_beat(&self, signs: &Signs, now: u64) -> Option<u64> {
        let beats = signs.keeper_pulse.checked_sub(self.keeper_pulse)?;
        let agent_beats = signs.agent_pulse.checked_sub(self.agent_pulse)?;
        let of_keeper = match beats.checked_sub(1) {
            Some(periods) => self
                .read_at
                .checked_add(periods.checked_mul(KEEPER_BEAT_MILLIS)?)?,
            None => 0,
        };
        let of_agent = if agent_beats > 0 { self.read_at } else { 0 };
        let last = self.beat_at.max(of_keeper).max(of_agent);
        (last <= now).then_some(last)
    }

    /// Whether these pulses, read at `now`, show that the guest was alive a moment ago;
    /// if so, what is to be remembered of it.
    pub(crate) fn proves_life(&self, signs: &Signs, now: u64) -> Option<Self> {
        let beat_at = self.last_beat(signs, now)?;
        (now - beat_at <= FRESH_MILLIS).then_some(Self {
            keeper_pulse: signs.keeper_pulse,
            agent_pulse: signs.agent_pulse,
            beat_at,
            read_at: now,
            ..*self
        })
    }
}

/// What was seen of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenVm {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    /// When all pages had been searched for guests inside the guest; 0 for never.
    pub(crate) covered_at: u64,
    /// The address from which on that search has to go on; 0 for the start.
    pub(crate) next: u64,
    pub(crate) beacons: Vec<SeenBeacon>,
}

/// Everything that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LastSeen {
    pub(crate) vms: Vec<SeenVm>,
}

impl LastSeen {
    /// Reads the file; nothing where there is none that can be trusted.
    pub(crate) fn load() -> Self {
        let read = || -> Option<Self> {
            let file = directory(false)?.read(FILE).ok()?;
            let mut text = String::new();
            file.take(LONGEST).read_to_string(&mut text).ok()?;
            Self::parse(&text)
        };
        read().unwrap_or_default()
    }

    /// Writes the file, if there is a safe place for it.
    pub(crate) fn store(&self) {
        let bytes = self.text();
        let written = directory(true).map(|directory| directory.replace(FILE, bytes.as_bytes()));
        if !matches!(written, Some(Ok(()))) {
            tracing::debug!("what was seen cannot be remembered");
        }
    }

    /// What was seen of the process `pid` that started at `start_time`.
    pub(crate) fn of(&self, pid: u32, start_time: u64) -> Option<&SeenVm> {
        self.vms
            .iter()
            .find(|vm| vm.pid == pid && vm.start_time == start_time)
    }

    /// The same with these VMs as they were seen now, and without those of which nothing
    /// was seen for long.
    pub(crate) fn with(self, mut now: Vec<SeenVm>) -> Self {
        let oldest = self::now().saturating_sub(REMEMBERED_MILLIS);
        let earlier = self.vms.into_iter().filter(|vm| {
            vm.beacons.iter().any(|beacon| beacon.read_at > oldest)
                && !now.iter().any(|other| other.pid == vm.pid)
        });
        let earlier: Vec<_> = earlier.take(MOST_VMS).collect();
        now.extend(earlier);
        Self { vms: now }
    }

    fn text(&self) -> String {
        let mut text = format!("vmshm 1 {:032x}\n", boot_id());
        for vm in &self.vms {
            let _ = writeln!(
                text,
                "vm {} {} {} {}",
                vm.pid, vm.start_time, vm.covered_at, vm.next
            );
            for beacon in vm.beacons.iter().take(MOST_BEACONS) {
                let _ = writeln!(
                    text,
                    "beacon {} {} {} {} {} {}",
                    beacon.address,
                    beacon.epoch,
                    beacon.keeper_pulse,
                    beacon.agent_pulse,
                    beacon.beat_at,
                    beacon.read_at
                );
            }
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // Times and process numbers of another boot mean nothing.
        if lines.next()? != format!("vmshm 1 {:032x}", boot_id()) {
            return None;
        }
        let mut vms: Vec<SeenVm> = Vec::new();
        for line in lines {
            let mut words = line.split(' ');
            let kind = words.next()?;
            let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
            match (kind, numbers.as_slice()) {
                ("vm", &[pid, start_time, covered_at, next]) => vms.push(SeenVm {
                    pid: u32::try_from(pid).ok()?,
                    start_time,
                    covered_at,
                    next,
                    beacons: Vec::new(),
                }),
                ("beacon", &[address, epoch, keeper_pulse, agent_pulse, beat_at, read_at]) => {
                    let vm = vms.last_mut()?;
                    if vm.beacons.len() < MOST_BEACONS {
                        vm.beacons.push(SeenBeacon {
                            address,
                            epoch,
                            keeper_pulse,
                            agent_pulse,
                            beat_at,
                            read_at,
                        });
                    }
                }
                _ => return None,
            }
        }
        Some(Self { vms })
    }
}

fn boot_id() -> u128 {
    u128::from_be_bytes(own_identity().boot_id)
}

/// The user's own directory for this, made if `make` says so; nothing unless it is
/// theirs alone.
fn directory(make: bool) -> Option<NoteDirectory> {
    let open = |path: PathBuf| {
        if make {
            let _ = user_directory::make_private_directory(&path);
        }
        NoteDirectory::open(&path)
    };
    user_directory::candidates().into_iter().find_map(open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmshm_link::beacon::KeeperState;

    const SEEN: SeenBeacon = SeenBeacon {
        address: 0x7f00_0020_0000,
        epoch: 7,
        keeper_pulse: 100,
        agent_pulse: 300,
        beat_at: 49_900,
        read_at: 50_000,
    };

    fn proves(keeper_pulse: u64, agent_pulse: u64, now: u64) -> bool {
        let signs = Signs {
            keeper_pulse,
            state: KeeperState::AgentAlive,
            agent_pulse,
            generation: 1,
        };
        SEEN.proves_life(&signs, now).is_some()
    }

    #[test]
    fn a_pulse_that_kept_its_pace_proves_life() {
        assert!(proves(101, 300, 50_200));
        assert!(proves(104, 300, 51_000));
        // Ten seconds at a pace that is two in the hundred slower.
        assert!(proves(100 + 39, 300, 60_000));
        // No beat yet, but the last is known to be no older.
        assert!(proves(100, 300, 50_100));
        assert!(proves(100, 301, 50_500), "the agent's heart beats, too");
    }

    #[test]
    fn a_dead_guest_is_never_taken_for_a_living_one() {
        assert!(
            !proves(100, 300, 50_550),
            "none since long before it was read"
        );
        assert!(!proves(100, 301, 50_601));
        // It beat until a second ago, however long it was alive before.
        for seconds in 1..100 {
            let last_beat = 50_000 + seconds * 1000;
            assert!(
                !proves(100 + seconds * 4, 300 + seconds * 10, last_beat + 1000),
                "{seconds}"
            );
        }
    }

    #[test]
    fn looking_again_and_again_does_not_keep_the_dead_alive() {
        let signs = Signs {
            keeper_pulse: 101,
            state: KeeperState::AgentAlive,
            agent_pulse: 301,
            generation: 1,
        };
        let mut seen = SEEN;
        let mut last = 0;
        for now in (50_010..60_000).step_by(10) {
            let Some(next) = seen.proves_life(&signs, now) else {
                break;
            };
            seen = next;
            last = now;
        }
        assert!(last <= 50_000 + FRESH_MILLIS, "{last}");
    }

    #[test]
    fn what_cannot_be_is_no_proof() {
        assert!(!proves(99, 301, 50_100), "an older memory");
        assert!(!proves(101, 299, 50_100), "an older memory");
        assert!(!proves(104, 300, 49_000), "a clock that went back");
        assert!(!proves(120, 300, 50_300), "faster than any keeper");
        assert!(!proves(u64::MAX, 300, u64::MAX));
    }

    #[test]
    fn what_was_not_looked_at_is_remembered_for_a_while() {
        let vm = |pid, read_at| SeenVm {
            pid,
            start_time: 1,
            covered_at: 0,
            next: 0,
            beacons: vec![SeenBeacon { read_at, ..SEEN }],
        };
        let before = LastSeen {
            vms: vec![vm(1, now()), vm(2, now()), vm(3, 0)],
        };
        let pids: Vec<u32> = before
            .with(vec![vm(1, now())])
            .vms
            .iter()
            .map(|vm| vm.pid)
            .collect();
        assert_eq!(pids, [1, 2]);
    }

    #[test]
    fn it_reads_back_as_written_and_anything_else_is_nothing() {
        let seen = LastSeen {
            vms: vec![SeenVm {
                pid: 17,
                start_time: 99,
                covered_at: 5,
                next: 0,
                beacons: vec![SEEN],
            }],
        };
        let text = seen.text();
        assert_eq!(LastSeen::parse(&text), Some(seen));
        assert_eq!(
            LastSeen::parse(&text.replace("vmshm 1 ", "vmshm 1 f")),
            None
        );
        assert_eq!(LastSeen::parse(&text.replace("beacon", "bacon")), None);
        assert_eq!(LastSeen::parse(&text.replace(" 7 ", " -7 ")), None);
        let headless = text.lines().filter(|line| !line.starts_with("vm "));
        let headless: Vec<_> = headless.collect();
        assert_eq!(LastSeen::parse(&headless.join("\n")), None);
        assert_eq!(LastSeen::parse(""), None);
    }
}
