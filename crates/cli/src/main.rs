//! The `vmshm` command: arguments, output and exit codes. What it does is in
//! `vmshm-host`; here is only how that is asked for and shown.

mod arguments;
mod commands;
mod failure;
mod interruption;
mod os;
mod output;
mod output_file;
mod picture;
mod reaper;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command, Region};

fn main() -> ExitCode {
    os::prepare_streams();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return arguments::refuse(&error),
    };
    start_log(&arguments.global);
    let global = &arguments.global;
    let result = match &arguments.command {
        Command::List(list) => commands::list::run(list, global),
        Command::Wait(wait) => commands::wait::run(wait, global),
        Command::Region(region) => match region {
            Region::List(list) => commands::region::list(list, global),
            Region::Create(create) => commands::region::create(create, global),
            Region::Remove(remove) => commands::region::remove(remove, global),
            Region::Read(read) => commands::region::read(read, global),
            Region::Write(write) => commands::region::write(write, global),
            Region::Graft(graft) => os::graft_region(graft, global),
        },
        Command::Inspect(inspect) => commands::inspect::run(inspect, global),
        Command::Translate(translate) => commands::translate::run(translate, global),
        Command::Read(read) => commands::memory::read(read, global),
        Command::Search(search) => match commands::search::run(search, global) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(1),
            Err(failure) => Err(failure),
        },
        Command::Write(write) => commands::memory::write(write, global),
        Command::Dump(dump) => commands::dump::run(dump, global),
        Command::Pipe(pipe) => commands::pipe::run(pipe, global),
        Command::Display(display) => commands::display::run(display, global),
        Command::Bench(bench) => commands::bench::run(bench, global),
        Command::Doctor(doctor) => commands::doctor::run(doctor, global),
        Command::Listen(listen) => commands::listen::run(listen, global),
        Command::Broker(broker) => commands::broker::run(broker, global),
        Command::Completions { shell } => commands::generate::completions(*shell),
        Command::Man { directory } => commands::generate::man(directory),
        Command::Reap { pid } => {
            reaper::wait_and_reap(*pid, global);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn start_log(global: &arguments::Global) {
    let level = if global.verbose {
        tracing::Level::DEBUG
    } else {
        tracing::Level::WARN
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(output::colour_on_stderr())
        .without_time()
        .init();
}
