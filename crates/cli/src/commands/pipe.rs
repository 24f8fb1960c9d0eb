//! `vmshm pipe`: stdin to the guest, the guest to stdout.

use vmshm_host::Condition;
use vmshm_host::pipe::{PipeEvent, run_pipe};

use crate::arguments::{Global, Pipe};
use crate::commands::attach;
use crate::failure::Failure;
use crate::interruption::Interruption;

/// Runs it.
pub(crate) fn run(pipe: &Pipe, global: &Global) -> Result<(), Failure> {
    let interruption = Interruption::watch()?;
    let (input, output) = vmshm_pipe::take_standard_streams().map_err(|error| {
        Failure::from_error(&error, None).because("cannot take the standard streams")
    })?;
    let (session, _reaper) = attach(&pipe.target.vm, global)?;
    let name = pipe.target.region.clone();
    let mut tell = |event| {
        if !global.quiet {
            say(event, &name);
        }
    };
    run_pipe(
        session,
        &pipe.target.region,
        global.patience(),
        input,
        output,
        &|| interruption.came(),
        &mut tell,
    )?;
    Ok(())
}

fn say(event: PipeEvent, name: &str) {
    match event {
        PipeEvent::WaitingForGuest => {
            eprintln!("waiting for `vmshm-agent pipe {name}` in the guest");
        }
        PipeEvent::Connected => tracing::debug!("the guest's end is there"),
        PipeEvent::Guest(Condition::Stopped) => {
            eprintln!("VM paused: its process is stopped; waiting");
        }
        PipeEvent::Guest(Condition::Silent) => {
            eprintln!("guest silent: no heartbeat (VM paused or very busy); waiting");
        }
        PipeEvent::Guest(Condition::Running) => eprintln!("the guest runs again"),
    }
}
