//! `vmshm read` and `vmshm write`: guest RAM by guest-physical address.

use vmshm_host::machines;
use vmshm_host::physical::{Physical, PhysicalError};
use vmshm_link::GuestPhysical;

use crate::arguments::{Global, Read, Write};
use crate::failure::Failure;
use crate::output::{self, ByteSink};
use crate::output_file::Readers;
use crate::reaper::Reaper;

/// Reads.
pub(crate) fn read(read: &Read, global: &Global) -> Result<(), Failure> {
    let subject = machines::find_subject(&read.vm)?;
    let physical = Physical::for_looking(&subject, &global.attach()?)?;
    let start = GuestPhysical(read.address);
    let mut sink = ByteSink::open(read.output.as_deref(), Readers::Owner, read.address)?;
    match physical.read(start, read.length, &mut |bytes| sink.put(bytes)) {
        Ok(source) => {
            output::tell_source(source, global.quiet);
            sink.finish()
        }
        Err(PhysicalError::Output(error)) => ByteSink::give_up(error),
        Err(error) => Err(error.into()),
    }
}

/// Writes.
pub(crate) fn write(write: &Write, global: &Global) -> Result<(), Failure> {
    let bytes = write.bytes.load()?;
    let vmm = machines::find(&write.vm)?;
    let options = global.attach()?;
    let start = GuestPhysical(write.address);
    let reaper = Reaper::start(&vmm, global);
    let physical = match Physical::for_writing(&vmm, &options) {
        Err(PhysicalError::Attach(_)) if write.unverified => {
            Physical::without_agent(&vmm, &options)?
        }
        other => other?,
    };
    let source = physical.write(start, &bytes, write.unverified)?;
    output::tell_source(source, global.quiet);
    drop(physical);
    drop(reaper);
    Ok(())
}
