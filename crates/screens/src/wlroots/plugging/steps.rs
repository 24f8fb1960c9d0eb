//! What comes after what in each job.

use std::time::{Duration, Instant};

use vmshm_channel::Size;
use vmshm_channel::source::FromSource;
use wayland_client::QueueHandle;

use super::super::desk::{Desk, Outcome};
use super::super::outputs::{Output, is_virtual};
use super::super::sway::{Ipc, IpcError};
use super::modes::{configure, is_it, mode_command, not_so};
use super::{Active, Job, Next, PATIENCE, Plugging, Step, refuse};

/// How long a mode that was granted may take to show.
const SETTLING: Duration = Duration::from_secs(10);

impl Plugging {
    pub(super) fn start(
        &mut self,
        job: Job,
        desk: &Desk,
        handle: &QueueHandle<Desk>,
        out: &mut Vec<FromSource>,
    ) {
        let begun = match &job {
            Job::Add { .. } => self.start_adding(desk),
            Job::SetMode { screen, mode, .. } => match desk.output(*screen) {
                None => Err("the screen is gone".to_owned()),
                Some(output) => {
                    let name = output.name.clone();
                    if is_it(output, *mode) {
                        let until = Instant::now() + SETTLING;
                        Ok((None, Step::Settling { name, until }))
                    } else {
                        self.start_setting(&name, *mode, desk, handle, 0)
                    }
                }
            },
            Job::Remove { name } => {
                let command = format!("output {name} unplug");
                self.command(&command)
                    .map(|ipc| (Some(ipc), Step::Unplugging { name: name.clone() }))
                    .map_err(|error| error.to_string())
            }
        };
        match begun {
            Ok((ipc, step)) => {
                self.active = Some(Active {
                    job,
                    step,
                    ipc,
                    until: Instant::now() + PATIENCE,
                });
            }
            Err(message) => refuse(&job, message, out),
        }
    }

    fn start_adding(&mut self, desk: &Desk) -> Result<(Option<Ipc>, Step), String> {
        let known = desk.outputs.iter().map(|one| one.name.clone()).collect();
        let again = self.spare.last().cloned();
        let command = match &again {
            Some(name) => format!("output {name} enable"),
            None => "create_output".to_owned(),
        };
        let ipc = self.command(&command).map_err(|error| error.to_string())?;
        let step = match again {
            Some(name) => {
                self.spare.pop();
                self.plug(&name);
                let again = Some(name);
                Step::Appearing { known, again }
            }
            None => Step::Creating { known },
        };
        Ok((Some(ipc), step))
    }

    fn start_setting(
        &mut self,
        name: &str,
        mode: Size,
        desk: &Desk,
        handle: &QueueHandle<Desk>,
        tries: u32,
    ) -> Result<(Option<Ipc>, Step), String> {
        let name = name.to_owned();
        if self.sway.is_some() {
            let command = mode_command(&name, mode)?;
            let ipc = self.command(&command).map_err(|error| error.to_string())?;
            return Ok((Some(ipc), Step::Asking { name }));
        }
        self.numbers += 1;
        let number = self.numbers;
        configure(&name, mode, desk, handle, number)?;
        let step = Step::Configuring {
            name,
            number,
            tries,
        };
        Ok((None, step))
    }

    pub(super) fn next_step(
        &mut self,
        active: &mut Active,
        answer: Option<Result<(), IpcError>>,
        late: bool,
        desk: &mut Desk,
        handle: &QueueHandle<Desk>,
        out: &mut Vec<FromSource>,
    ) -> Next {
        if late {
            return Next::Refused("the compositor does not answer".to_owned());
        }
        let mode = active.job.mode();
        match &active.step {
            Step::Creating { known } => match answer {
                None => Next::Waits,
                Some(Err(error)) => Next::Refused(format!("no monitor can be added: {error}")),
                Some(Ok(())) => {
                    let known = known.clone();
                    Next::Goes(None, Step::Appearing { known, again: None })
                }
            },
            Step::Appearing { known, again } => {
                if let Some(Err(error)) = answer {
                    return Next::Refused(error.to_string());
                }
                if active.ipc.is_some() {
                    return Next::Waits;
                }
                let is_new = |output: &&Output| match again {
                    Some(name) => output.name == *name,
                    None => is_virtual(&output.name) && !known.contains(&output.name),
                };
                let found = desk.outputs.iter().filter(|one| one.is_told());
                let Some(output) = found.into_iter().find(is_new) else {
                    return Next::Waits;
                };
                let name = output.name.clone();
                self.plug(&name);
                match self.start_setting(&name, mode, desk, handle, 0) {
                    Ok((ipc, step)) => Next::Goes(ipc, step),
                    Err(message) => {
                        active.step = Step::Asking { name };
                        Next::Refused(message)
                    }
                }
            }
            Step::Asking { name } => match answer {
                None => Next::Waits,
                Some(Err(error)) => Next::Refused(not_so(name, mode, &error.to_string(), desk)),
                Some(Ok(())) => settle(name),
            },
            Step::Configuring {
                name,
                number,
                tries,
            } => {
                let outcome = desk.outcomes.iter().find(|one| one.0 == *number);
                let outcome = outcome.map(|one| one.1);
                match outcome {
                    None => Next::Waits,
                    Some(Outcome::Succeeded) => settle(name),
                    Some(Outcome::Cancelled) if *tries < 5 => {
                        match self.start_setting(name, mode, desk, handle, tries + 1) {
                            Ok((ipc, step)) => Next::Goes(ipc, step),
                            Err(message) => Next::Refused(message),
                        }
                    }
                    Some(_) => Next::Refused(not_so(name, mode, "the compositor refuses", desk)),
                }
            }
            Step::Settling { name, until } => match desk.output_named(name) {
                Some(output) if output.is_listed() && is_it(output, mode) => {
                    out.push(match active.job {
                        Job::Add { request, .. } => FromSource::Added {
                            request,
                            screen: output.screen,
                        },
                        Job::SetMode { request, .. } => FromSource::ModeSet { request },
                        Job::Remove { .. } => return Next::Done,
                    });
                    Next::Done
                }
                Some(output) if Instant::now() > *until => {
                    let (width, height) = (output.mode.width, output.mode.height);
                    let still = format!("it stays at {width}x{height}");
                    Next::Refused(not_so(name, mode, &still, desk))
                }
                None if Instant::now() > *until => Next::Refused("the screen is gone".to_owned()),
                _ => Next::Waits,
            },
            Step::Unplugging { name } => match answer {
                None => Next::Waits,
                Some(Ok(())) => {
                    self.ledger.forget(name);
                    Next::Done
                }
                Some(Err(_)) if desk.output_named(name).is_none() => {
                    self.ledger.forget(name);
                    Next::Done
                }
                Some(Err(error)) => {
                    let name = name.clone();
                    out.push(FromSource::Note {
                        message: format!(
                            "{name} cannot be removed ({error}); it stays, switched off if the compositor can do that, and is used again by the next monitor that is added"
                        ),
                    });
                    match self.command(&format!("output {name} disable")) {
                        Ok(ipc) => Next::Goes(Some(ipc), Step::SwitchingOff { name }),
                        Err(error) => Next::Refused(error.to_string()),
                    }
                }
            },
            Step::SwitchingOff { name } => match answer {
                None => Next::Waits,
                Some(Ok(())) => {
                    self.spare.push(name.clone());
                    Next::Done
                }
                Some(Err(error)) => Next::Refused(error.to_string()),
            },
        }
    }
}

fn settle(name: &str) -> Next {
    let step = Step::Settling {
        name: name.to_owned(),
        until: Instant::now() + SETTLING,
    };
    Next::Goes(None, step)
}
