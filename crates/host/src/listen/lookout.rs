//! Looking for an announced beacon in the VMs of this host: at the announced address
//! only, wherever that may lie in each, and only by reading.

use vmshm_link::rendezvous::message::Announce;
use vmshm_ram::{FindError, Method, Protection, Vmm, find_all};
use vmshm_shm::SharedMemory;

use crate::beacon_search::beacons_at;
use crate::sighting::{Candidate, Directory, Target};

/// A VM of this host, as a listener names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The VMM's process.
    pub pid: u32,
    /// When it started.
    pub start_time: u64,
    /// What kind of VMM it is.
    pub vmm: String,
    /// What it is called.
    pub name: String,
}

/// A VM that has a beacon of the announced identity at the announced address. Which of
/// them is the guest that announces itself, the nonce will show.
pub struct Suspect {
    /// The VM.
    pub machine: Machine,
    /// The guest's directory, where the nonce's answer would appear.
    pub directory: Box<dyn SharedMemory + Send>,
}

/// What came of looking.
#[derive(Default)]
pub struct Looked {
    /// The VMs that have such a beacon.
    pub suspects: Vec<Suspect>,
    /// How many VMs could not be looked at.
    pub unreadable: usize,
}

/// Where announced beacons are looked for.
pub trait Lookout: Send {
    /// Looks for one.
    ///
    /// # Errors
    /// [`FindError`] when processes cannot be listed at all.
    fn look(&mut self, announce: &Announce) -> Result<Looked, FindError>;
}

/// The processes of this host.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    /// How to reach guest RAM.
    pub method: Method,
}

impl Lookout for Processes {
    fn look(&mut self, announce: &Announce) -> Result<Looked, FindError> {
        let mut looked = Looked::default();
        for vmm in find_all()? {
            match look_at(&vmm, self.method, announce) {
                Ok(suspects) => looked.suspects.extend(suspects),
                Err(error) => {
                    looked.unreadable += 1;
                    tracing::debug!(vm = vmm.name, %error, "cannot be looked at");
                }
            }
        }
        Ok(looked)
    }
}

fn look_at(
    vmm: &Vmm,
    method: Method,
    announce: &Announce,
) -> Result<Vec<Suspect>, Box<dyn std::error::Error>> {
    let target = Target::open(vmm, method)?;
    let is_meant = |candidate: &&Candidate| {
        candidate.beacon.epoch == announce.epoch && candidate.beacon.boot_id == announce.boot_id
    };
    let mut suspects = Vec::new();
    let candidates = beacons_at(&target, announce.beacon)?;
    for candidate in candidates.iter().filter(is_meant) {
        // A damaged directory is as good as none: an old copy of a beacon has one.
        match Directory::open(&target, candidate, Protection::Read) {
            Ok(directory) => suspects.push(Suspect {
                machine: Machine {
                    pid: vmm.pid,
                    start_time: vmm.start_time,
                    vmm: vmm.kind.to_string(),
                    name: vmm.name.clone(),
                },
                directory: Box::new(directory.memory),
            }),
            Err(error) => {
                tracing::debug!(vm = vmm.name, %error, "a beacon's directory cannot be read");
            }
        }
    }
    Ok(suspects)
}
