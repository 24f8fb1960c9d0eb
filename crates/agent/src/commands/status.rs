//! `vmshm-agent status`: what the keeper holds, who uses it, and where it lies. It
//! works without an agent, too: what a dead one has left is shown.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use vmshm_link::control::EndCause;
use vmshm_link::directory::{Budget, DIRECTORY_SIZE, RegionKind, SLOTS, slot_offset};
use vmshm_link::slot::{SlotState, SlotView};
use vmshm_link::{Extent, LinkError, VERSION};
use vmshm_shm::{MapError, Protection};

use super::ask::{self, AskError};
use crate::agent::local_protocol::{
    Answer, HeldInfo, ProgramInfo, RoleName, ScreensInfo, SessionInfo, Wish,
};
use crate::agent::regions::Description;
use crate::connect::{ConnectionInfo, ConnectionState};
use crate::facts::{self, FactsError};
use crate::keeper::client::{Client, ClientError, Inventory};
use crate::keeper::protocol::{Allocation, Purpose, State};
use crate::size::show;
use crate::window::Window;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    /// Nothing runs.
    #[error("no agent is running in this guest, and no keeper holds memory")]
    NotRunning,
    /// The keeper could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The agent could not be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The directory could not be mapped.
    #[error("cannot map the directory: {0}")]
    Map(#[from] MapError),
    /// The directory is damaged.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A fact about the guest is missing.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// It could not be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It could not be printed.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl StatusError {
    /// What the user can do.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NotRunning => Some("start it with `vmshm-agent run`".to_owned()),
            Self::Client(ClientError::Refused { hint, .. }) => hint.clone(),
            Self::Ask(error) => error.hint(),
            _ => None,
        }
    }
}

/// Everything, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    protocol: String,
    state: State,
    agent_pid: Option<u32>,
    keeper_pid: u32,
    boot_id: String,
    /// Hexadecimal: not every reader of JSON has 64-bit integers.
    epoch: String,
    generation: u64,
    /// Guest-physical address of the beacon's page.
    beacon: u64,
    pinning: String,
    pinned_bytes: u64,
    max_pinned_bytes: Option<u64>,
    directory: Memory,
    regions: Vec<RegionStatus>,
    sessions: Vec<SessionStatus>,
    /// Programs of this guest that are connected; nothing where no agent listens.
    programs: Option<Vec<ProgramInfo>>,
    /// Screens and what delivers them; nothing where no agent listens.
    screens: Option<ScreensInfo>,
    /// The connection out of the guest; nothing where none was asked for.
    connection: Option<ConnectionInfo>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Memory {
    extents: Vec<ExtentStatus>,
    /// A file through which root can read the bytes.
    memory: String,
}

#[derive(Debug, Serialize)]
struct ExtentStatus {
    gpa: u64,
    length: u64,
}

#[derive(Debug, Serialize)]
struct RegionStatus {
    name: String,
    kind: &'static str,
    size: u64,
    ready: bool,
    /// Bytes of a record or value, for kinds that have such.
    record: u64,
    /// False once it was removed, while somebody still holds it.
    listed: bool,
    /// Why it is over, while somebody still holds it.
    ended: Option<&'static str>,
    held_by: Vec<usize>,
    #[serde(flatten)]
    memory: Memory,
}

#[derive(Debug, Serialize)]
struct SessionStatus {
    slot: usize,
    state: &'static str,
    /// The host's process, as numbered there.
    host_pid: Option<u64>,
    /// Unknown where no agent listens.
    silent_seconds: Option<u32>,
    broken: Option<String>,
}

/// What to print.
pub(crate) fn run(json: bool) -> Result<String, StatusError> {
    let mut client = Client::connect()?.ok_or(StatusError::NotRunning)?;
    let inventory = client.list()?;
    let heard = match ask::ask(Wish::Sessions) {
        Ok(Answer::Sessions(sessions)) => Some(sessions),
        Ok(_) => return Err(AskError::Unexpected.into()),
        Err(AskError::NotRunning) => None,
        Err(error) => return Err(error.into()),
    };
    let connection = match heard.as_ref().map(|_| ask::ask(Wish::Connection)) {
        Some(Ok(Answer::Connection(connection))) => connection,
        Some(Ok(_)) => return Err(AskError::Unexpected.into()),
        None | Some(Err(AskError::NotRunning)) => None,
        Some(Err(error)) => return Err(error.into()),
    };
    let programs = match heard.as_ref().map(|_| ask::ask(Wish::Programs)) {
        Some(Ok(Answer::Programs(programs))) => Some(programs),
        Some(Ok(_)) => return Err(AskError::Unexpected.into()),
        None | Some(Err(AskError::NotRunning)) => None,
        Some(Err(error)) => return Err(error.into()),
    };
    let screens = match heard.as_ref().map(|_| ask::ask(Wish::Screens)) {
        Some(Ok(Answer::Screens(screens))) => Some(screens),
        Some(Ok(_)) => return Err(AskError::Unexpected.into()),
        None | Some(Err(AskError::NotRunning)) => None,
        Some(Err(error)) => return Err(error.into()),
    };
    let status = Status {
        screens,
        ..collect(&inventory, heard, connection, programs)?
    };
    if json {
        Ok(serde_json::to_string_pretty(&status)?)
    } else {
        Ok(for_people(&status))
    }
}

fn collect(
    inventory: &Inventory,
    heard: Option<Vec<SessionInfo>>,
    connection: Option<ConnectionInfo>,
    programs: Option<Vec<ProgramInfo>>,
) -> Result<Status, StatusError> {
    let summary = &inventory.summary;
    let beacon = &inventory.find(Purpose::Beacon)?.allocation;
    let directory = inventory.find(Purpose::Directory)?;
    let map = Window::open(&directory.file, 0, DIRECTORY_SIZE, Protection::Read)?;
    let allocations = inventory.holdings.iter().map(|holding| &holding.allocation);
    let regions = allocations
        .clone()
        .filter(|allocation| allocation.purpose == Purpose::Region)
        .filter_map(|allocation| region(allocation, summary.keeper_pid))
        .collect();
    let limit = Budget::read(&map)?.limit;
    Ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        protocol: VERSION.to_string(),
        state: summary.state,
        agent_pid: summary.agent_pid,
        keeper_pid: summary.keeper_pid,
        boot_id: facts::show_boot_id(&facts::boot_id()?),
        epoch: format!("{:#018x}", summary.epoch),
        generation: summary.generation,
        beacon: beacon.extents.first().map_or(0, |(start, _)| *start),
        pinning: summary.method.to_string(),
        pinned_bytes: allocations.map(|allocation| allocation.cost).sum(),
        max_pinned_bytes: Some(limit).filter(|_| summary.agent_pid.is_some()),
        directory: memory(&directory.allocation, summary.keeper_pid),
        regions,
        sessions: sessions(&map, heard.as_deref())?,
        programs,
        screens: None,
        connection,
        notes: summary.notes.clone(),
    })
}

fn memory(allocation: &Allocation, keeper: u32) -> Memory {
    Memory {
        extents: allocation
            .extents()
            .into_iter()
            .map(|Extent { start, length }| ExtentStatus {
                gpa: start.0,
                length,
            })
            .collect(),
        memory: format!("/proc/{keeper}/fd/{}", allocation.descriptor),
    }
}

/// Memory that is just being made has no description yet.
fn region(allocation: &Allocation, keeper: u32) -> Option<RegionStatus> {
    let text = allocation.description.as_deref()?;
    let description: Description = serde_json::from_str(text).ok()?;
    Some(RegionStatus {
        kind: RegionKind::from_word(description.kind).name(),
        size: allocation.length,
        ready: description.ready,
        record: description.record,
        listed: description.listed,
        ended: description
            .ended
            .map(|cause| match EndCause::from_word(cause) {
                EndCause::Removed => "removed",
                EndCause::Damaged => "damaged",
                EndCause::Other(_) => "over",
            }),
        held_by: description
            .holders
            .iter()
            .map(|holder| holder.slot)
            .collect(),
        name: description.name,
        memory: memory(allocation, keeper),
    })
}

fn sessions(
    directory: &Window,
    heard: Option<&[SessionInfo]>,
) -> Result<Vec<SessionStatus>, StatusError> {
    let mut sessions = Vec::new();
    for slot in 0..SLOTS {
        let view = SlotView::read(directory, slot_offset(slot))?;
        if !view.is_held() {
            continue;
        }
        let info = heard.and_then(|infos| infos.iter().find(|info| info.slot == slot));
        sessions.push(SessionStatus {
            slot,
            state: match view.state {
                SlotState::Free => "free",
                SlotState::Granted => "granted",
                SlotState::Proved => "proved",
                SlotState::Orphaned => "orphaned",
            },
            host_pid: view.owner.map(|owner| owner.pid),
            silent_seconds: info.map(|info| info.silent_seconds),
            broken: info.and_then(|info| info.broken.clone()),
        });
    }
    Ok(sessions)
}

fn for_people(status: &Status) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = describe(&mut text, status);
    text.trim_end().to_owned()
}

fn describe(text: &mut String, status: &Status) -> std::fmt::Result {
    let agent = match (status.state, status.agent_pid) {
        (State::Alive, Some(pid)) => format!("running as pid {pid}"),
        (State::Dead, None) => "dead; its memory is kept".to_owned(),
        (State::Withdrawn, _) => "has left; hosts still hold memory".to_owned(),
        (_, Some(pid)) => format!("starting as pid {pid}"),
        (_, None) => "has not come yet".to_owned(),
    };
    writeln!(
        text,
        "agent       {agent} (vmshm-agent {}, protocol {})",
        status.version, status.protocol
    )?;
    writeln!(
        text,
        "keeper      pid {}, pinning by {}",
        status.keeper_pid, status.pinning
    )?;
    writeln!(text, "beacon      {:#x}", status.beacon)?;
    let limit = status
        .max_pinned_bytes
        .map(|limit| format!(" of at most {}", show(limit)));
    writeln!(
        text,
        "pinned      {}{}",
        show(status.pinned_bytes),
        limit.unwrap_or_default()
    )?;
    writeln!(text, "boot id     {}", status.boot_id)?;
    writeln!(text, "regions     {}", status.regions.len())?;
    for region in &status.regions {
        write!(
            text,
            "  {}  {}, {}, {} {}",
            region.name,
            region.kind,
            show(region.size),
            region.memory.extents.len(),
            if region.memory.extents.len() == 1 {
                "extent"
            } else {
                "extents"
            }
        )?;
        if let Some(ended) = region.ended {
            write!(text, ", {ended}")?;
        } else if !region.listed {
            write!(text, ", removed")?;
        } else if !region.ready {
            write!(text, ", not proved yet")?;
        }
        if !region.held_by.is_empty() {
            let slots: Vec<String> = region.held_by.iter().map(usize::to_string).collect();
            write!(text, ", held by slot {}", slots.join(", "))?;
        }
        writeln!(text)?;
    }
    writeln!(text, "sessions    {}", status.sessions.len())?;
    for session in &status.sessions {
        write!(text, "  slot {}  {}", session.slot, session.state)?;
        if let Some(pid) = session.host_pid {
            write!(text, ", host process {pid}")?;
        }
        if let Some(seconds @ 1..) = session.silent_seconds {
            write!(text, ", silent for {seconds} s")?;
        }
        if let Some(reason) = &session.broken {
            write!(text, ", not served: {reason}")?;
        }
        writeln!(text)?;
    }
    describe_programs(text, status.programs.as_deref().unwrap_or_default())?;
    if let Some(screens) = &status.screens {
        describe_screens(text, screens)?;
    }
    if let Some(ConnectionInfo { to, state, reason }) = &status.connection {
        write!(text, "connection  to {to}: ")?;
        match (state, reason) {
            (ConnectionState::Tied, _) => writeln!(text, "tied to this guest's host")?,
            (ConnectionState::Connecting, None) => writeln!(text, "connecting")?,
            (_, reason) => writeln!(text, "trying again ({})", reason.as_deref().unwrap_or("?"))?,
        }
    }
    status
        .notes
        .iter()
        .try_for_each(|note| writeln!(text, "note: {note}"))
}

fn describe_screens(text: &mut String, screens: &ScreensInfo) -> std::fmt::Result {
    if !screens.offered {
        return writeln!(text, "screens     not offered (--no-screens)");
    }
    let input = if screens.input {
        ""
    } else {
        ", no input taken (--no-input)"
    };
    writeln!(text, "screens     {} watched{input}", screens.watched)?;
    for source in &screens.sources {
        write!(text, "  {}", source.title)?;
        if let Some(pid) = source.pid {
            write!(text, ", process {pid}")?;
        }
        if !source.screens.is_empty() {
            write!(text, ": {}", source.screens.join(", "))?;
        }
        if let Some(trouble) = &source.trouble {
            write!(text, "; {trouble}")?;
        }
        writeln!(text)?;
    }
    Ok(())
}

fn describe_programs(text: &mut String, programs: &[ProgramInfo]) -> std::fmt::Result {
    if programs.is_empty() {
        return Ok(());
    }
    writeln!(text, "programs    {}", programs.len())?;
    for program in programs {
        write!(text, "  process {} of user {}", program.pid, program.uid)?;
        let mut before = ": ";
        for HeldInfo {
            region,
            role,
            waits,
        } in &program.held
        {
            let what = match (waits, role) {
                (true, _) => "waits for",
                (false, RoleName::End) => "has an end of",
                (false, RoleName::Watch) => "watches",
            };
            write!(text, "{before}{what} {region}")?;
            before = ", ";
        }
        writeln!(text)?;
    }
    Ok(())
}
