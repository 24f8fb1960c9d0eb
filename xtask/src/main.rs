//! `cargo xtask`: builds, tests and checks vmshm, and boots the VMs that this needs.
//!
//! Parses the command line, calls one module for each command, and turns its result into an exit code: 0 done, 1 a
//! check or test failed, 2 error. `vm` passes its script's exit status on, and gives 128 + the signal's number if a
//! signal ended it.

mod apt;
mod archive;
mod artifacts;
mod bench;
mod checkout;
mod command;
mod debian13;
mod demo;
mod headless_windows;
mod install;
mod kernels;
mod lock;
mod packages;
mod progress;
mod testing;
mod tidy;
mod vm;
mod volatility;
mod windows;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use vm::hidden::Guard;
use vm::options::VmOptions;
use vm::running::Interrupted;

/// Builds, tests and checks vmshm, and boots the VMs that this needs
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build target/dist/vmshm, target/dist/vmshm-monitor and the static target/dist/vmshm-agent
    Build,
    /// Boot a VM, find it from outside, share memory with it, and show the figures
    Demo {
        /// The program that runs the VM
        #[arg(long, default_value = "uml")]
        vmm: vm::options::Vmm,
    },
    /// Measure vmshm beside the bare cache lines, memcpy, iceoryx2 and rtrb, in one run
    #[command(after_help = bench::AFTER_HELP)]
    Bench(bench::BenchOptions),
    /// Take the README's picture anew: a window on the host with a guest's desktop in it
    Picture {
        /// Where to write it
        #[arg(default_value = "docs/window.png")]
        file: std::path::PathBuf,
    },
    /// Boot a VM on the host's own file system (or a Debian 13 tree), read-only below a tmpfs overlay
    #[command(after_help = VM_HELP)]
    Vm(Box<VmOptions>),
    /// Fetch what is missing and run all checks and tests, real VMs included; ends with the counts
    Test {
        /// Run the long tests, too
        #[arg(long)]
        all: bool,
    },
    /// Build target/dist/windows/{vmshm,vmshm-monitor}.exe and test them under Wine; ends with the counts
    Windows,
    /// Check the project's rules that a program can check
    Tidy,
    /// Become a VMM: how xtask starts one
    #[command(hide = true)]
    StartVmm {
        #[arg(last = true)]
        command_line: Vec<OsString>,
    },
    /// The demo's end of a TCP connection in its guest
    #[command(hide = true)]
    AnswerTcp { address: String },
    /// End a VMM and clean up when standard input ends: how xtask leaves nothing behind
    #[command(hide = true)]
    Guard(Guard),
}

const VM_HELP: &str = "\
Once the guest is up (and its agent ready) one line {\"pid\":…,\"name\":…} goes to standard output, with the process id of
the VMM. The guest's console and SCRIPT's output go to standard error. SCRIPT runs in the checkout's directory with
standard input from /dev/null. The checkout and SCRIPT are visible in the guest at their own paths.

Without SCRIPT the VM stays until SIGINT, SIGTERM or SIGHUP; these end it with SCRIPT, too.

Exit status: SCRIPT's own; 128 + the signal's number when a signal ended the VM (130 for SIGINT, 143 for SIGTERM); 2 when
the VM could not be started or ended by itself.";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(code) => code,
        Err(error) => {
            if let Some(Interrupted(signal)) = error.downcast_ref() {
                return ExitCode::from(u8::try_from(128 + signal).unwrap_or(2));
            }
            report(&error);
            ExitCode::from(2)
        }
    }
}

/// Says what went wrong: the causes in one go, and then each hint on a line of its own.
fn report(error: &anyhow::Error) {
    let texts: Vec<String> = error.chain().map(ToString::to_string).collect();
    let split = |text: &String| {
        text.split_once("\nhint: ")
            .map(|(cause, hint)| (cause.to_owned(), hint.to_owned()))
    };
    let causes: Vec<String> = texts
        .iter()
        .map(|text| split(text).map_or_else(|| text.clone(), |(cause, _)| cause))
        .collect();
    eprintln!("error: {}", causes.join(": "));
    for (_, hint) in texts.iter().filter_map(split) {
        eprintln!("hint: {hint}");
    }
}

/// Does what the command line asks for.
fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Build => artifacts::build()?,
        Task::Test { all } if !testing::run(all) => return Ok(ExitCode::FAILURE),
        Task::Test { .. } => {}
        Task::Windows if !windows::run()? => return Ok(ExitCode::FAILURE),
        Task::Windows => {}
        Task::Tidy if tidy::run()? > 0 => return Ok(ExitCode::FAILURE),
        Task::Tidy => {}
        Task::Demo { vmm } => demo::run(vmm)?,
        Task::Bench(options) => bench::run(&options)?,
        Task::Picture { file } => headless_windows::picture(&file)?,
        Task::Vm(options) => return vm_task(&options),
        Task::StartVmm { command_line } => vm::hidden::start_vmm(&command_line)?,
        Task::AnswerTcp { address } => demo::tcp::answer(&address)?,
        Task::Guard(guard) => vm::hidden::guard(&guard)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots a VM, tells where it is, and stays until its script or a signal ends it.
fn vm_task(options: &VmOptions) -> Result<ExitCode> {
    use std::io::Write;
    let vm = vm::boot(options, &vm::channels::Console::StandardError)?;
    // Written by hand so that the process id comes first, as documented.
    let line = format!(
        r#"{{"pid":{},"name":{}}}"#,
        vm.pid(),
        serde_json::to_string(vm.name())?
    );
    let mut output = std::io::stdout().lock();
    // Who closed our standard output does not want to know; the VM serves others, too.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
    drop(output);
    let status = vm.wait()?;
    match vm.wait_for_power_off() {
        Some(interrupted) => Err(interrupted.into()),
        None => Ok(ExitCode::from(status)),
    }
}
