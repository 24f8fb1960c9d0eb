//! Opening a link's region in a session: the agent is asked for it, its pages are laid out
//! and proved, and from then on its end is told.

use std::time::{Duration, Instant};

use vmshm_endpoint::{Held, OpenError, Role, Wish};
use vmshm_link::control::{RefusalCode, RegionReply, Reply, Request};
use vmshm_ram::Protection;

use super::Vm;
use super::failure::open_error;
use super::live::Live;
use crate::deadline::Deadline;
use crate::region::unexpected;
use crate::session::{RequestError, region_name};

/// The agent has at least so long for its answer, also where a wish says less.
const ANSWER: Duration = Duration::from_secs(1);
/// How often a region that is not there yet is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long an end that is taken is asked for while it may become free at any moment.
const LEAVING: Duration = Duration::from_secs(2);
/// How long it is asked for anyway: a process that was killed takes a moment to die.
const DYING: Duration = Duration::from_millis(200);

/// Opens what is wished for.
///
/// # Errors
/// [`OpenError`]; nothing is held then.
pub(super) fn open(live: &Live, handle: u64, wish: &Wish) -> Result<Held<Vm>, OpenError> {
    let start = Instant::now();
    let failed = |error: RequestError| open_error(error, start.elapsed());
    let granted = granted(live, wish, start).map_err(failed)?;
    let tether = live
        .hold(handle, granted.region, &wish.name)
        .map_err(|end| OpenError::Ended(end.into()))?;
    let protection = match wish.role {
        Role::End => Protection::ReadWrite,
        Role::Watch => Protection::Read,
    };
    let left = wish.timeout.saturating_sub(start.elapsed()).max(ANSWER);
    let mut ask = |request: &Request| live.ask(request, Deadline::after(left));
    let laid_out = live.source.lay_out(&granted, protection, left, &mut ask);
    let region = match laid_out {
        Ok(region) => region,
        Err(error) => {
            live.close(handle);
            return Err(failed(error));
        }
    };
    live.lies(handle, &region.memory);
    Ok(Held {
        region: handle,
        memory: region.memory,
        right: live.right.clone(),
        tether,
        doorbell: live.doorbell(region.id),
    })
}

/// Asks until it is granted, or there is no use in asking again.
fn granted(live: &Live, wish: &Wish, start: Instant) -> Result<RegionReply, RequestError> {
    let request = Request::Link {
        kind: wish.kind,
        size: wish.size,
        name: region_name(&wish.name)?,
        record: wish.record,
        role: wish.role,
    };
    let deadline = Deadline::after(wish.timeout);
    loop {
        let error = match live.ask(&request, deadline.not_before(ANSWER)) {
            Ok(Reply::Region(granted)) => return Ok(granted),
            Ok(_) => return Err(unexpected().into()),
            Err(error) => error,
        };
        let code = match &error {
            RequestError::Refused { code, .. } => *code,
            _ => return Err(error),
        };
        let may_change = match code {
            // The other side may make it.
            RefusalCode::NotFound => wish.size == 0,
            // Whoever proves it may have been killed, and what it has made is given up then.
            RefusalCode::Proving => {
                live.release_slots_of_the_dead()?;
                true
            }
            // This very session has it.
            RefusalCode::Busy if live.has_open(&wish.name) => false,
            // Who had the end before may have been killed; then only another process of
            // this host can tell the guest so.
            RefusalCode::Busy => {
                let some_are_leaving = live.release_slots_of_the_dead()?;
                let patience = if some_are_leaving { LEAVING } else { DYING };
                start.elapsed() < patience
            }
            _ => false,
        };
        if !may_change || deadline.left() <= ASK_AGAIN {
            return Err(error);
        }
        std::thread::sleep(ASK_AGAIN);
    }
}
