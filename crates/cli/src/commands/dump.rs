//! `vmshm dump`: all guest RAM into a file, for other tools and for later. The VM runs
//! on meanwhile; nothing in it changes.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use vmshm_host::machines;
use vmshm_host::physical::Physical;
use vmshm_ram::{DumpFormat, DumpPlan, DumpWriteError};

use crate::arguments::Global;
use crate::failure::Failure;
use crate::interruption::{Interruption, not_written};
use crate::os;
use crate::output::{self, tolerate_broken_pipe};
use crate::output_file::{OutputFile, Readers, is_stream};

/// What `vmshm dump` says after its options.
pub(crate) const AFTER_HELP: &str = "\
The VM runs on while it is dumped: the dump is no snapshot of one instant. Pause the VM first
where that matters. Only memory that exists is read, where the system tells; the rest, and pages
of zeros, are holes of the file. The file appears under its name when it is whole, and a new one
is readable by its owner alone; a pipe or a device is written straight, with zeros for holes.

Formats:
  elf   core file with guest-physical addresses in its program headers; for Volatility, gdb, objdump
  lime  a header before each range of RAM; for Volatility
  raw   guest-physical address is place in the file

Examples:
  vmshm dump web -o web.elf
  vmshm dump web -o web.lime --format lime
  vmshm dump dump:web.elf -o web.raw --format raw     convert a dump
  vmshm dump web -o - --format lime | zstd > web.lime.zst";

#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// Process number, name, vmm:name, or dump:FILE (dump:raw:FILE: raw, whatever it begins with)
    pub(crate) vm: String,
    /// The file to write; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The format to write
    #[arg(long, value_enum, default_value_t = FormatArgument::Elf)]
    pub(crate) format: FormatArgument,
}

/// As [`DumpFormat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArgument {
    /// ELF core file
    Elf,
    /// Bytes alone, sparse
    Raw,
    /// LiME
    Lime,
}

impl From<FormatArgument> for DumpFormat {
    fn from(format: FormatArgument) -> Self {
        match format {
            FormatArgument::Elf => Self::Elf,
            FormatArgument::Raw => Self::Raw,
            FormatArgument::Lime => Self::Lime,
        }
    }
}

/// Runs it.
pub(crate) fn run(dump: &Dump, global: &Global) -> Result<(), Failure> {
    let subject = machines::find_subject(&dump.vm)?;
    let physical = Physical::for_looking(&subject, &global.attach()?)?;
    let plan = DumpPlan::new(physical.layout(), dump.format.into())?;
    let existing = plan.existing_bytes(physical.ram())?;
    // A pipe leaves nothing behind that would have to be removed; there a signal may
    // end the process at once, also where it waits for the reader.
    let interruption = if dump.output.as_os_str() == "-" || is_stream(&dump.output) {
        None
    } else {
        Some(Interruption::watch()?)
    };
    let mut sink = Sink::open(&dump.output)?;
    let interrupted = || interruption.as_ref().is_some_and(Interruption::came);
    let sources = physical.layout().ranges().iter().map(|range| range.source);
    output::tell_source(sources.max(), global.quiet);

    let start = Instant::now();
    let bar = output::byte_bar(existing, "dumping", global.quiet);
    let mut write = || {
        sink.begin(plan.file_length())
            .map_err(DumpWriteError::Output)?;
        let read = plan.write(
            physical.ram(),
            &mut |offset, bytes| sink.put(offset, bytes),
            &mut |done| {
                bar.set_position(done);
                !interrupted()
            },
        )?;
        bar.set_message("syncing");
        sink.end(plan.file_length())
            .map_err(DumpWriteError::Output)?;
        if interrupted() {
            return Err(DumpWriteError::Stopped);
        }
        Ok(read)
    };
    let written = write();
    bar.finish_and_clear();
    // A dump that is replaced by one of itself is closed first: not every system gives a
    // file's name to another file while it is read.
    drop(physical);
    drop(subject);
    let head = std::mem::take(&mut sink.head);
    let finished = written.and_then(|read| {
        sink.file.finish().map_err(DumpWriteError::Output)?;
        Ok(read)
    });
    match finished {
        Ok(read) => {
            let text = summary(dump, &plan, read, start.elapsed());
            output::tell(&text, global.quiet);
            if let Some(warning) = warning(&head, plan.format()) {
                output::tell(&warning, global.quiet);
            }
            Ok(())
        }
        Err(DumpWriteError::Output(error)) => match tolerate_broken_pipe(Err(error)) {
            Ok(()) => Ok(()),
            Err(error) => Err(output_failure(&error, &dump.output, &plan, existing)),
        },
        Err(DumpWriteError::Stopped) => Err(Failure::new(&not_written(&dump.output), None)),
        Err(error) => Err(error.into()),
    }
}

/// So much of a file's start tells its format.
const HEAD: usize = 16;

/// Where a dump's bytes go: into their places, or one after the other.
struct Sink {
    file: OutputFile,
    /// How much has gone into a pipe.
    at: u64,
    /// What the output begins with, if that is no hole.
    head: Vec<u8>,
}

impl Sink {
    fn open(path: &Path) -> Result<Self, Failure> {
        let file = if path.as_os_str() == "-" {
            OutputFile::standard()
                .map_err(|error| Failure::from_error(&error, None).because("opening stdout"))?
        } else {
            OutputFile::open(path, Readers::Owner)?
        };
        if let OutputFile::Stream(stream) = &file
            && stream.is_terminal()
        {
            return Err(Failure::new(
                "a dump is no text, and the output is a terminal",
                Some("name a file with `-o FILE`, or send stdout into a pipe"),
            ));
        }
        Ok(Self {
            file,
            at: 0,
            head: Vec::new(),
        })
    }

    /// Gives the file its length, so that a file system that cannot hold it says so now.
    fn begin(&self, length: u64) -> io::Result<()> {
        match &self.file {
            OutputFile::Whole(whole) => {
                os::make_sparse(whole.file());
                whole.file().set_len(length)
            }
            OutputFile::Stream(_) => Ok(()),
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.head = bytes.iter().copied().take(HEAD).collect();
        }
        if let OutputFile::Whole(whole) = &self.file {
            return os::write_all_at(whole.file(), bytes, offset);
        }
        self.fill(offset)?;
        self.file.put(bytes)?;
        self.at = offset + bytes.len() as u64;
        Ok(())
    }

    /// All bytes are there; brings them to the disk, where there is one.
    fn end(&mut self, length: u64) -> io::Result<()> {
        match &self.file {
            OutputFile::Whole(whole) => whole.file().sync_all(),
            OutputFile::Stream(_) => self.fill(length),
        }
    }

    /// Zeros up to `offset`: a pipe has no holes.
    fn fill(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 1 << 16];
        while self.at < offset {
            let count = ZEROS.len() as u64;
            let count = count.min(offset - self.at);
            let zeros = usize::try_from(count)
                .ok()
                .and_then(|count| ZEROS.get(..count));
            self.file.put(zeros.unwrap_or_default())?;
            self.at += count;
        }
        Ok(())
    }
}

/// What was dumped, how, and how fast.
fn summary(dump: &Dump, plan: &DumpPlan, read: u64, took: Duration) -> String {
    let ranges = match plan.ranges() {
        1 => "1 range".to_owned(),
        ranges => format!("{ranges} ranges"),
    };
    let seconds = took.as_secs_f64();
    format!(
        "dumped {} of {} RAM to {} ({}, {ranges}) in {seconds:.1} s, {}/s",
        output::size(read),
        output::size(plan.ram_bytes()),
        dump.output.display(),
        plan.format(),
        rate(read, seconds),
    )
}

/// What the reader of a raw dump has to know where the guest's memory begins like another
/// format.
fn warning(head: &[u8], format: DumpFormat) -> Option<String> {
    let taken_for = DumpFormat::raw_taken_for(head).filter(|_| format == DumpFormat::Raw)?;
    Some(format!(
        "warning: the guest's memory begins like {taken_for}, for which the dump would be taken; read it as `dump:raw:FILE`"
    ))
}

/// Bytes a second, for people.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive, and casts of floats saturate"
)]
fn rate(bytes: u64, seconds: f64) -> String {
    output::size((bytes as f64 / seconds.max(1e-3)) as u64)
}

/// Why the output failed, and how much room it would take. The partial file is gone by
/// now, so that the free room is what the user has.
fn output_failure(error: &io::Error, path: &Path, plan: &DumpPlan, existing: u64) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free = free_room(path).map_or_else(String::new, |free| {
                format!(", and {} are free there", output::size(free))
            });
            Some(format!(
                "the dump needs up to {} of room{free}",
                output::size(existing)
            ))
        }
        io::ErrorKind::FileTooLarge => Some(format!(
            "the file would be {} long, most of it holes where the guest has no memory; {}{}",
            output::size(plan.file_length()),
            os::FILE_TOO_LARGE_HINT,
            if plan.format() == DumpFormat::Raw {
                ", or `--format elf`"
            } else {
                ""
            }
        )),
        _ => None,
    };
    Failure::from_error(error, hint).because(&format!("cannot write {}", path.display()))
}

/// Room that is left where the file would be.
fn free_room(path: &Path) -> Option<u64> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // What is no regular file has no room of its own.
    if is_stream(path) {
        return None;
    }
    os::free_room(directory)
}
