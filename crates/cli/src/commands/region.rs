//! `vmshm region`: named shared memory that both sides can open.

use serde_json::{Value, json};
use vmshm_host::attach::see;
use vmshm_host::machines;
use vmshm_host::reach;
use vmshm_host::reaching::is_lack_of_rights;
use vmshm_link::directory::{RegionEntry, RegionKind};
use vmshm_shm::SharedMemory;

use crate::arguments::{Global, RegionCreate, RegionList, RegionRead, RegionRemove, RegionWrite};
use crate::commands::attach;
use crate::commands::list::region_json;
use crate::failure::Failure;
use crate::os;
use crate::output::{self, ByteSink};
use crate::output_file::Readers;

/// How much is copied at once.
const CHUNK: usize = 1 << 20;

/// Lists a VM's regions; only looks.
pub(crate) fn list(list: &RegionList, global: &Global) -> Result<(), Failure> {
    let listed = regions(&list.vm, global)?;
    if list.json {
        let array: Vec<Value> = listed.iter().map(listed_json).collect();
        return output::print(&format!("{:#}\n", Value::from(array)));
    }
    let mut rows = vec![
        ["NAME", "KIND", "SIZE", "GRAFT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(listed.iter().map(|(region, is_grafted)| {
        let graft = match is_grafted {
            Some(true) => "yes",
            Some(false) => "-",
            None => "?",
        };
        vec![
            region.name.as_str().to_owned(),
            region.kind.name().to_owned(),
            output::size(region.size),
            graft.to_owned(),
        ]
    }));
    output::print(&output::table(&rows))
}

/// A region, and whether it is grafted where that may be seen.
type Listed = (RegionEntry, Option<bool>);

fn listed_json((region, is_grafted): &Listed) -> Value {
    let mut value = region_json(region);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("grafted".to_owned(), json!(is_grafted));
    }
    value
}

/// The regions of a VM, or those that a broker would give where this user may not look.
fn regions(vm: &str, global: &Global) -> Result<Vec<Listed>, Failure> {
    let options = global.attach()?;
    if options.broker.is_none() {
        let looked = machines::find(vm).map(|vmm| (vmm.pid, see(&vmm, &options)));
        match looked {
            Ok((pid, Ok(seen))) => {
                let regions = seen.directory.regions().collect::<Result<Vec<_>, _>>()?;
                let grafted = os::grafted_regions(pid, seen.beacon(), &regions);
                let is_grafted = |index: usize| grafted.as_ref()?.get(index).copied();
                let listed = regions.into_iter().enumerate();
                return Ok(listed
                    .map(|(index, region)| (region, is_grafted(index)))
                    .collect());
            }
            Ok((_, Err(error))) if !is_lack_of_rights(&error) => return Err(error.into()),
            Ok((_, Err(_))) | Err(_) => {}
        }
    }
    let mut session = reach(vm, &options)?.session;
    let regions = session.regions(global.patience())?;
    // What a broker gives is grafted while it gives it.
    Ok(regions.into_iter().map(|region| (region, None)).collect())
}

/// Makes a region.
pub(crate) fn create(create: &RegionCreate, global: &Global) -> Result<(), Failure> {
    if create.size == 0 {
        return Err(Failure::new("a region of 0 bytes makes no sense", None));
    }
    let (mut session, _reaper) = attach(&create.target.vm, global)?;
    let region = session.create_region(
        &create.target.region,
        RegionKind::Raw,
        create.size,
        global.patience(),
    )?;
    if !global.quiet {
        let extents = match region.extents.len() {
            0 => String::new(),
            count => format!(" in {}", output::count(count, "extent")),
        };
        eprintln!(
            "region {} of {}{extents}",
            create.target.region,
            output::size(region.memory.size()),
        );
    }
    Ok(())
}

/// Removes a region.
pub(crate) fn remove(remove: &RegionRemove, global: &Global) -> Result<(), Failure> {
    let (mut session, _reaper) = attach(&remove.target.vm, global)?;
    Ok(session.remove_region(&remove.target.region, global.patience())?)
}

/// Reads a region's bytes.
pub(crate) fn read(read: &RegionRead, global: &Global) -> Result<(), Failure> {
    let (mut session, _reaper) = attach(&read.target.vm, global)?;
    let region = session.open_region(&read.target.region, RegionKind::Raw, 0, global.patience())?;
    check_range(read.offset, read.length, region.memory.size())?;
    let mut sink = ByteSink::open(read.output.as_deref(), Readers::Owner, read.offset)?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < read.length {
        let count = usize::try_from(read.length - done).map_or(CHUNK, |n| n.min(CHUNK));
        let chunk = buffer.get_mut(..count).unwrap_or_default();
        region
            .memory
            .read(read.offset + done, chunk)
            .map_err(|fault| Failure::from_error(&fault, None))?;
        session.keep()?;
        if let Err(error) = sink.put(chunk) {
            return ByteSink::give_up(error);
        }
        done += count as u64;
    }
    sink.finish()
}

/// Writes a region's bytes.
pub(crate) fn write(write: &RegionWrite, global: &Global) -> Result<(), Failure> {
    let bytes = write.bytes.load()?;
    let (mut session, _reaper) = attach(&write.target.vm, global)?;
    let region =
        session.open_region(&write.target.region, RegionKind::Raw, 0, global.patience())?;
    check_range(write.offset, bytes.len() as u64, region.memory.size())?;
    for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
        session.keep()?;
        region
            .memory
            .write(write.offset + (index * CHUNK) as u64, chunk)
            .map_err(|fault| Failure::from_error(&fault, None))?;
    }
    Ok(())
}

/// Refuses a range before a single byte of it is touched.
fn check_range(offset: u64, length: u64, size: u64) -> Result<(), Failure> {
    if length == 0 {
        return Err(Failure::new("a length of 0 bytes makes no sense", None));
    }
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Failure::new(
            &format!("{length} bytes at offset {offset:#x} go beyond the region's {size} bytes"),
            None,
        )),
    }
}
