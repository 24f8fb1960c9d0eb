//! What may be typed. Parsing does no work and touches no VM.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vmshm_host::{AttachOptions, Where};
use vmshm_link::GuestPhysical;
use vmshm_link::quantity::{parse_number, parse_size};
use vmshm_ram::Method;

/// The version, with the protocol's.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (protocol 1.2)");

/// Share memory with running virtual machines.
#[derive(Debug, Parser)]
#[command(
    name = "vmshm",
    version = VERSION,
    about = "Share memory with running virtual machines",
    after_help = "Examples:\n  vmshm list                          the VMs of this host\n  vmshm pipe web/backup < disk.img    bytes into `vmshm-agent pipe backup` in VM web\n  vmshm region create web/shared --size 64M\n  vmshm read web 0x100000 256         guest RAM by guest-physical address\n  vmshm display web --add 1920x1080   a second monitor for the guest's desktop\n  vmshm doctor                        what can be reached, what cannot, and why\n\nVM is a process number, a name, or vmm:name (as `vmshm list` shows them);\nwhere a command only reads, also dump:FILE.\nExit codes: 0 done, 1 a search found nothing, 2 error."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What holds for every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How to reach guest RAM
    #[arg(long, global = true, value_enum, default_value_t = MethodArgument::Auto)]
    pub(crate) method: MethodArgument,
    /// The beacon's guest-physical address, as `vmshm-agent status` prints it
    #[arg(long, global = true, value_name = "GPA", value_parser = parse_number)]
    pub(crate) beacon: Option<u64>,
    /// Do not scan guest RAM for the beacon: look where --beacon says, else where a running `vmshm listen` has learned it to be
    #[arg(long, global = true)]
    pub(crate) no_scan: bool,
    /// Have this broker attach, by its socket [default: /run/vmshm/broker.sock, where this user may not; on Linux hosts]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "VMSHM_BROKER",
        hide_env_values = true
    )]
    pub(crate) broker: Option<PathBuf>,
    /// How long to wait for the guest [default: 5; for a `--screenshot`: 30; for `wait`, `list --watch`, a running pipe and a display: no limit]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Say nothing on stderr but errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say what is being done on stderr
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

/// As [`Method`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodArgument {
    /// Map where that works, else copy
    Auto,
    /// Map the pages that are used; zero copy
    Map,
    /// Make each region that is opened a file of its own first, in the VM's process; zero copy, whatever the VM's memory is (on Linux hosts)
    Graft,
    /// Have the system copy from and to the VM's process
    Copy,
}

impl Global {
    /// How long to wait for the guest.
    pub(crate) fn patience(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(5))
    }

    /// The options for attaching.
    pub(crate) fn attach(&self) -> Result<AttachOptions, crate::failure::Failure> {
        let method = match self.method {
            MethodArgument::Auto => Method::Auto,
            MethodArgument::Map => Method::Map,
            MethodArgument::Copy => Method::Copy,
            MethodArgument::Graft => match crate::os::GRAFT_REFUSAL {
                None => Method::Graft,
                Some(reason) => {
                    return Err(crate::failure::Failure::new(
                        reason,
                        Some("use `--method auto`, which maps where it can and copies elsewhere"),
                    ));
                }
            },
        };
        Ok(AttachOptions {
            method,
            place: self.place(),
            timeout: self.patience(),
            broker: self.broker(),
        })
    }

    /// The broker to be used, if one is named.
    pub(crate) fn broker(&self) -> Option<PathBuf> {
        let named = self.broker.clone();
        named.filter(|path| !path.as_os_str().is_empty())
    }

    /// Where to look for beacons.
    pub(crate) fn place(&self) -> Where {
        match self.beacon {
            Some(address) => Where::At(GuestPhysical(address)),
            None if self.no_scan => Where::Learned,
            None => Where::Scan,
        }
    }

    /// The same options for the reaper: what a command may not do, its reaper may not.
    pub(crate) fn for_reaper(&self) -> Vec<String> {
        let method = self.method.to_possible_value();
        let mut words: Vec<String> = method
            .iter()
            .map(|method| format!("--method={}", method.get_name()))
            .collect();
        words.extend(self.beacon.map(|address| format!("--beacon={address:#x}")));
        words.extend(self.no_scan.then(|| "--no-scan".to_owned()));
        words
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the VMs of this host
    #[command(
        after_help = "Examples:\n  vmshm list\n  vmshm list --json | jq \".[].name\"\n  vmshm list --watch                  what happens, a line for each event, until Ctrl-C\n  vmshm list --watch --json --timeout 60 | jq -r \"select(.event == \\\"rebooted\\\").name\""
    )]
    List(List),
    /// Wait until a VM, or its agent, is there
    #[command(after_help = "Example:\n  vmshm wait web --agent --timeout 60")]
    Wait(Wait),
    /// Everything that looking at a VM or a stored dump tells, also as a picture
    #[command(
        after_help = "Examples:\n  vmshm inspect web\n  vmshm inspect web --picture web.svg\n  vmshm inspect dump:memory.elf --json | jq .layout"
    )]
    Inspect(crate::commands::inspect::Inspect),
    /// Where a guest-physical address lies in the VMM's memory, and how that is known
    #[command(after_help = "Example:\n  vmshm translate web 0x100000000")]
    Translate(crate::commands::translate::Translate),
    /// Named shared memory that both sides can open
    #[command(subcommand)]
    Region(Region),
    /// Read guest RAM: a hexdump on a terminal, raw bytes into a pipe or file
    #[command(
        after_help = "Examples:\n  vmshm read web 0x100000 4K -o page.bin\n  vmshm read dump:web.elf 0x100000 256"
    )]
    Read(Read),
    /// Find byte patterns in guest RAM
    Search(crate::commands::search::Search),
    /// Write guest RAM, where its place is proved
    #[command(after_help = "Example:\n  vmshm write web 0x7f400000 --hex \"de ad be ef\"")]
    Write(Write),
    /// Write all guest RAM into a file: an ELF core, LiME's format, or raw
    #[command(after_help = crate::commands::dump::AFTER_HELP)]
    Dump(crate::commands::dump::Dump),
    /// Connect stdin and stdout to `vmshm-agent pipe NAME` in the guest
    #[command(
        after_help = "Either end may come first and makes the pipe; the end of the input half-closes it;\nthe command ends when both directions have ended.\n\nBytes go through unchanged. Where a shell turns what goes through its pipes into text (PowerShell\nbefore 7.4 does), use another one.\n\nExample:\n  tar cf - . | vmshm pipe web/files   (in the guest: vmshm-agent pipe files | tar xf -)"
    )]
    Pipe(Pipe),
    /// Show a screen of the guest in a window, or write a picture of it
    #[command(after_help = crate::commands::display_arguments::AFTER_HELP)]
    Display(crate::commands::display_arguments::Display),
    /// Measure latency and copy rate, each beside its floor
    #[command(after_help = "Example:\n  vmshm bench web --json")]
    Bench(Bench),
    /// What can be reached, what cannot, why, and what would help
    #[command(after_help = "Example:\n  vmshm doctor web")]
    Doctor(Doctor),
    /// Take the connections of agents that were started with --connect, and tie each to its VM (on Linux hosts)
    Listen(crate::commands::listen::Listen),
    /// Hand regions and screens of VMs to programs of other users, as rules allow (on Linux hosts)
    #[command(after_help = crate::commands::broker::AFTER_HELP)]
    Broker(crate::commands::broker::Broker),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory
    Man {
        /// The directory
        directory: PathBuf,
    },
    /// Waits for the end of its parent; see `reaper`.
    #[command(hide = true)]
    Reap {
        /// The VM's process.
        pid: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print a JSON array; with --watch an object for each event, one a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on and print what happens: VMs and agents that come and go, reboots, changes
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Process number, name, or vmm:name
    pub(crate) vm: String,
    /// Wait until its agent is there, too
    #[arg(long)]
    pub(crate) agent: bool,
}

/// What can be done with regions.
#[derive(Debug, Subcommand)]
pub(crate) enum Region {
    /// List a VM's regions
    List(RegionList),
    /// Make a region; it stays until it is removed
    #[command(after_help = "Example:\n  vmshm region create web/shared --size 64M")]
    Create(RegionCreate),
    /// Remove a region
    Remove(RegionRemove),
    /// Read a region's bytes
    #[command(after_help = "Example:\n  vmshm region read web/shared 0 4K -o bytes.bin")]
    Read(RegionRead),
    /// Write a region's bytes
    #[command(after_help = "Example:\n  vmshm region write web/shared 0x10 --hex 01020304")]
    Write(RegionWrite),
    /// Make a region a file of its own in the VM's process, which can be mapped without copying
    #[command(
        after_help = "Examples:\n  vmshm region graft web/shared\n  vmshm region graft web/shared --undo"
    )]
    Graft(RegionGraft),
}

#[derive(Debug, Args)]
pub(crate) struct RegionList {
    /// Process number, name, or vmm:name
    pub(crate) vm: String,
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RegionCreate {
    /// VM and region
    #[arg(value_name = "VM/NAME", value_parser = parse_target)]
    pub(crate) target: RegionTarget,
    /// Its size; rounded up to whole pages
    #[arg(long, value_parser = parse_size)]
    pub(crate) size: u64,
}

#[derive(Debug, Args)]
pub(crate) struct RegionRemove {
    /// VM and region
    #[arg(value_name = "VM/NAME", value_parser = parse_target)]
    pub(crate) target: RegionTarget,
}

#[derive(Debug, Args)]
pub(crate) struct RegionGraft {
    /// VM and region; with --undo also the name of a graft, as errors and the VM's mappings show it
    #[arg(value_name = "VM/NAME", value_parser = parse_target)]
    pub(crate) target: RegionTarget,
    /// Make the region's memory the VM's own again
    #[arg(long)]
    pub(crate) undo: bool,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RegionRead {
    /// VM and region
    #[arg(value_name = "VM/NAME", value_parser = parse_target)]
    pub(crate) target: RegionTarget,
    /// First byte
    #[arg(value_parser = parse_size)]
    pub(crate) offset: u64,
    /// How many bytes
    #[arg(value_parser = parse_size)]
    pub(crate) length: u64,
    /// Write the bytes to this file; a new one is readable by its owner alone
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RegionWrite {
    /// VM and region
    #[arg(value_name = "VM/NAME", value_parser = parse_target)]
    pub(crate) target: RegionTarget,
    /// First byte
    #[arg(value_parser = parse_size)]
    pub(crate) offset: u64,
    #[command(flatten)]
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Args)]
pub(crate) struct Read {
    /// Process number, name, vmm:name, or dump:FILE (dump:raw:FILE: raw, whatever it begins with)
    pub(crate) vm: String,
    /// Guest-physical address
    #[arg(value_name = "GPA", value_parser = parse_number)]
    pub(crate) address: u64,
    /// How many bytes
    #[arg(value_name = "LEN", value_parser = parse_size)]
    pub(crate) length: u64,
    /// Write the bytes to this file; a new one is readable by its owner alone
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Write {
    /// Process number, name, or vmm:name
    pub(crate) vm: String,
    /// Guest-physical address
    #[arg(value_name = "GPA", value_parser = parse_number)]
    pub(crate) address: u64,
    #[command(flatten)]
    pub(crate) bytes: Bytes,
    /// Write even where the address's place in the VM's memory is not proved
    #[arg(long)]
    pub(crate) unverified: bool,
}

/// The bytes to write.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Bytes {
    /// As hexadecimal digits; spaces are ignored
    #[arg(long)]
    hex: Option<String>,
    /// From this file; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Bytes {
    /// The most that is read from a file: more than any guest's RAM that is written at
    /// once.
    const LIMIT: u64 = 1 << 32;

    /// Reads the bytes.
    pub(crate) fn load(&self) -> Result<Vec<u8>, crate::failure::Failure> {
        use crate::failure::Failure;
        use std::io::Read as _;
        if let Some(hex) = &self.hex {
            return parse_hex(hex).map_err(|why| Failure::new(&why, None));
        }
        let path = self.input.clone().unwrap_or_else(|| PathBuf::from("-"));
        let mut bytes = Vec::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().take(Self::LIMIT).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(&path)
                .and_then(|file| file.take(Self::LIMIT).read_to_end(&mut bytes))
        };
        read.map_err(|error| {
            Failure::from_error(&error, None).because(&format!("cannot read {}", path.display()))
        })?;
        Ok(bytes)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Pipe {
    /// VM and pipe
    #[arg(value_name = "VM/NAME", value_parser = parse_target)]
    pub(crate) target: RegionTarget,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Process number, name, or vmm:name
    pub(crate) vm: String,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// How many messages to time
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub(crate) rounds: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Process number, name, or vmm:name [default: all]
    pub(crate) vm: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// A region of a VM, as `VM/NAME`.
#[derive(Debug, Clone)]
pub(crate) struct RegionTarget {
    pub(crate) vm: String,
    pub(crate) region: String,
}

fn parse_target(text: &str) -> Result<RegionTarget, String> {
    match text.rsplit_once('/') {
        Some((vm, region)) if !vm.is_empty() && !region.is_empty() => Ok(RegionTarget {
            vm: vm.to_owned(),
            region: region.to_owned(),
        }),
        _ => Err("expected VM/NAME".to_owned()),
    }
}

pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        // A clock cannot be set further than this ahead everywhere.
        .filter(|duration| duration.as_secs() < 1 << 31)
        .ok_or_else(|| "expected a number of seconds such as 5 or 0.5".to_owned())
}

/// Bytes from hexadecimal digits; white space is ignored.
pub(crate) fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .map(|character| {
            character
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or_else(|| format!("{character:?} is no hexadecimal digit"))
        })
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err("an odd number of hexadecimal digits".to_owned());
    }
    Ok(digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

/// Prints what clap has to say; help and version are successes.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    // A reader of ours that has left is no failure.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_scanning_a_place_is_given_or_learned_and_the_reaper_keeps_to_it() {
        let parse = |words: &[&str]| {
            let words = ["vmshm", "region", "list", "vm"].iter().chain(words);
            Arguments::try_parse_from(words).expect("right").global
        };
        let at = Where::At(GuestPhysical(0x20_0000));
        for (words, place) in [
            (&[][..], Where::Scan),
            (&["--beacon", "0x200000"], at),
            (
                &["--no-scan", "--beacon", "0x200000", "--method", "copy"],
                at,
            ),
            (&["--no-scan"], Where::Learned),
        ] {
            let global = parse(words);
            assert_eq!(global.place(), place, "{words:?}");
            let words = global.for_reaper();
            let reaper = Arguments::try_parse_from(
                ["vmshm", "reap", "1"]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(words),
            );
            let reaper = reaper.expect("the reaper understands it").global;
            assert_eq!(reaper.place(), place);
            assert_eq!(reaper.method, global.method);
        }
    }

    #[test]
    fn the_version_names_the_protocol_that_is_spoken() {
        let protocol = format!("(protocol {})", vmshm_link::VERSION);
        assert!(VERSION.ends_with(&protocol), "{VERSION}");
    }

    #[test]
    fn hex_reads_pairs_and_refuses_the_rest() {
        assert_eq!(parse_hex("de AD\n01"), Ok(vec![0xde, 0xad, 1]));
        assert_eq!(parse_hex(""), Ok(vec![]));
        assert!(parse_hex("abc").is_err());
        assert!(parse_hex("zz").is_err());
    }

    #[test]
    fn targets_split_at_the_last_slash() {
        let target = parse_target("a/b/c").expect("right");
        assert_eq!((target.vm.as_str(), target.region.as_str()), ("a/b", "c"));
        assert!(parse_target("a").is_err() && parse_target("a/").is_err());
        assert!(parse_target("/a").is_err());
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["-1", "nan", "inf", "1e300", "x"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }
}
