//! `vmshm search`: byte patterns in guest RAM, as guest-physical addresses. Matches are
//! printed while the search goes on.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal};
use std::num::NonZeroU64;
use std::ops::ControlFlow;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use vmshm_host::machines;
use vmshm_host::physical::Physical;
use vmshm_link::GuestPhysical;
use vmshm_link::quantity::{QuantityError, parse_number, parse_size};
use vmshm_ram::{Found, Patterns, SearchOptions, SearchSink, SearchStats};

use crate::arguments::{Global, parse_hex};
use crate::failure::Failure;
use crate::os;
use crate::output;

/// How many bytes of a match are shown on a terminal.
const PREVIEW: u64 = 48;
const PAGE: u64 = 4096;

#[derive(Debug, Args)]
#[command(
    after_help = "One line for each match, in rising order of addresses: the guest-physical address and, where\nseveral patterns were given, a tab and the pattern. Only pages that exist are searched,\nwhere the system tells.\nExit codes: 0 found, 1 nothing found, 2 error, also where nothing was found and not all memory\ncould be read.\n\nExamples:\n  vmshm search web \"Linux version\"\n  vmshm search web --hex \"7f 45 4c 46\" --align 4K --limit 10\n  vmshm search dump:web.elf password --hex deadbeef --json | jq \".[].gpa\""
)]
pub(crate) struct Search {
    /// Process number, name, vmm:name, or dump:FILE (dump:raw:FILE: raw, whatever it begins with)
    pub(crate) vm: String,
    /// What to search for, as text; may be repeated, and mixed with --hex
    #[arg(value_name = "TEXT", required_unless_present = "hex")]
    texts: Vec<OsString>,
    /// What to search for, as hexadecimal digits; spaces are ignored; may be repeated
    #[arg(long, value_name = "HEX", value_parser = parse_hex_pattern)]
    hex: Vec<HexPattern>,
    /// Only at guest-physical addresses that are multiples of this
    #[arg(long, value_name = "N", value_parser = parse_alignment, default_value = "1")]
    align: NonZeroU64,
    /// End after this many matches
    #[arg(long, value_name = "N", value_parser = parse_limit)]
    limit: Option<NonZeroU64>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// A pattern in hexadecimal digits, and how it was typed.
#[derive(Debug, Clone)]
struct HexPattern {
    typed: String,
    bytes: Vec<u8>,
}

fn parse_hex_pattern(text: &str) -> Result<HexPattern, String> {
    Ok(HexPattern {
        typed: text.to_owned(),
        bytes: parse_hex(text)?,
    })
}

fn parse_alignment(text: &str) -> Result<NonZeroU64, String> {
    nonzero(
        parse_size(text),
        "every address is a multiple of 1; of 0, none is",
    )
}

fn parse_limit(text: &str) -> Result<NonZeroU64, String> {
    nonzero(parse_number(text), "a search for 0 matches makes no sense")
}

fn nonzero(number: Result<u64, QuantityError>, if_zero: &str) -> Result<NonZeroU64, String> {
    let number = number.map_err(|error| error.to_string())?;
    NonZeroU64::new(number).ok_or_else(|| if_zero.to_owned())
}

/// How a pattern was typed.
#[derive(Debug)]
struct Typed {
    text: String,
    kind: &'static str,
}

/// Runs it; says whether anything was found.
pub(crate) fn run(search: &Search, global: &Global) -> Result<bool, Failure> {
    let (bytes, typed) = search.patterns()?;
    let patterns = Patterns::new(bytes)?;
    let subject = machines::find_subject(&search.vm)?;
    let physical = Physical::for_looking(&subject, &global.attach()?)?;
    let ranges = physical.layout().ranges();
    output::tell_source(ranges.iter().map(|range| range.source).max(), global.quiet);
    let addresses = ranges.iter().map(|range| range.extent.length).sum();
    let terminal = io::stdout().is_terminal();
    let mut printer = Printer {
        typed,
        physical: &physical,
        form: match (search.json, terminal) {
            (true, _) => Form::Json { first: true },
            (false, true) => Form::Terminal,
            (false, false) => Form::Lines,
        },
        suspend: terminal,
        bar: output::bar(addresses, "searching", global.quiet),
        failed: None,
    };
    let options = SearchOptions {
        alignment: search.align,
        limit: search.limit,
        threads: None,
    };
    let searched = physical
        .ram()
        .search(physical.layout(), &patterns, &options, &mut printer);
    printer.bar.finish_and_clear();
    let stats = match searched {
        Ok(stats) => stats,
        Err(error) => {
            // What was found until then is still a whole array; that it is not all, the
            // error says.
            printer.break_off();
            return Err(error.into());
        }
    };
    printer.finish()?;
    conclude(&stats, global.quiet)
}

/// Whether anything was found. Nothing in a part is no "nothing found".
fn conclude(stats: &SearchStats, quiet: bool) -> Result<bool, Failure> {
    if stats.unreadable > 0 {
        let size = output::size(stats.unreadable);
        let text = format!("{size} of guest RAM could not be read and was not searched");
        if stats.found == 0 && !stats.ended_early {
            let searched = output::size(stats.searched);
            let text = format!("{text}; nothing was found in the other {searched} that exist");
            return Err(Failure::new(&text, None));
        }
        output::tell(&text, quiet);
    } else if stats.found == 0 {
        let size = output::size(stats.searched);
        let text = format!("nothing found in the {size} of guest RAM that exist");
        output::tell(&text, quiet);
    }
    Ok(stats.found > 0)
}

impl Search {
    /// The patterns' bytes, and how each was typed.
    fn patterns(&self) -> Result<(Vec<Vec<u8>>, Vec<Typed>), Failure> {
        let texts = self.texts.iter().map(|text| {
            let typed = Typed {
                text: text.to_string_lossy().into_owned(),
                kind: "text",
            };
            let bytes = os::pattern_bytes(text).map_err(|why| Failure::new(&why, None))?;
            Ok((bytes, typed))
        });
        let hex = self.hex.iter().map(|hex| {
            let typed = Typed {
                text: hex.typed.clone(),
                kind: "hex",
            };
            Ok((hex.bytes.clone(), typed))
        });
        texts.chain(hex).collect()
    }
}

/// How matches are shown.
#[derive(Debug)]
enum Form {
    /// For programs that read lines.
    Lines,
    /// For people: with a look at what is there.
    Terminal,
    /// An array that grows.
    Json { first: bool },
}

impl Form {
    /// What comes behind the last match. A search that did not happen prints nothing.
    const fn end(&self, happened: bool) -> &'static str {
        match self {
            Self::Json { first: true } if happened => "[]\n",
            Self::Json { first: false } => "\n]\n",
            Self::Json { first: true } | Self::Lines | Self::Terminal => "",
        }
    }
}

/// Prints matches as they come.
struct Printer<'a> {
    typed: Vec<Typed>,
    physical: &'a Physical,
    form: Form,
    /// Whether the bar and the matches share a terminal.
    suspend: bool,
    bar: ProgressBar,
    /// Why printing ended.
    failed: Option<io::Error>,
}

impl Printer<'_> {
    fn finish(mut self) -> Result<(), Failure> {
        let end = self.form.end(true);
        if self.failed.is_none() {
            self.failed = output::print_at_once(end).err();
        }
        match self.failed {
            // A reader that has seen enough is no failure.
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::from_error(&error, None).because("writing the output"))
            }
            _ => Ok(()),
        }
    }

    /// Ends the output of a search that failed.
    fn break_off(self) {
        if self.failed.is_none() {
            // The failure of the search is told, not this one.
            let _ = output::print_at_once(self.form.end(false));
        }
    }

    fn show(&mut self, found: &Found, into: &mut String) {
        let Some(typed) = self.typed.get(found.pattern) else {
            return;
        };
        let address = found.address.to_string();
        let several = self.typed.len() > 1;
        // Writing into a string does not fail.
        let _ = match &mut self.form {
            Form::Json { first } => {
                let start = if *first { "[\n" } else { ",\n" };
                *first = false;
                let object = json!({
                    "gpa": found.address.0,
                    "pattern": typed.text,
                    "kind": typed.kind,
                });
                write!(into, "{start}  {object}")
            }
            Form::Lines if several => writeln!(into, "{address}\t{}", printable(&typed.text)),
            Form::Lines => writeln!(into, "{address}"),
            Form::Terminal => {
                let preview = preview(self.physical, found.address);
                if several {
                    let pattern = printable(&typed.text);
                    writeln!(into, "{address:<12}  {pattern}  |{preview}|")
                } else {
                    writeln!(into, "{address:<12}  |{preview}|")
                }
            }
        };
    }
}

impl SearchSink for Printer<'_> {
    fn found(&mut self, matches: &[Found]) -> ControlFlow<()> {
        let mut text = String::new();
        for found in matches {
            self.show(found, &mut text);
        }
        let written = if self.suspend {
            self.bar.suspend(|| output::print_at_once(&text))
        } else {
            output::print_at_once(&text)
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn passed(&mut self, addresses: u64) {
        self.bar.inc(addresses);
    }
}

/// A pattern on one line, whatever is in it.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// What is at an address, up to the end of its page, which exists.
fn preview(physical: &Physical, address: GuestPhysical) -> String {
    let Ok(location) = physical.layout().translate(address) else {
        return String::new();
    };
    let length = PREVIEW
        .min(location.remaining)
        .min(PAGE - location.at.offset % PAGE);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    if physical.ram().read_at(location.at, &mut bytes).is_err() {
        return String::new();
    }
    let shown = |byte: u8| {
        if (b' '..=b'~').contains(&byte) {
            char::from(byte)
        } else {
            '.'
        }
    };
    bytes.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stay_on_their_line() {
        assert_eq!(printable("a\tb\n\u{1b}[0mé\""), "a\\tb\\n\\u{1b}[0mé\"");
    }

    #[test]
    fn zero_is_refused_with_the_reason() {
        assert_eq!(parse_alignment("4K").map(NonZeroU64::get), Ok(4096));
        assert_eq!(parse_limit("0x10").map(NonZeroU64::get), Ok(16));
        for refused in [parse_alignment("0"), parse_limit("0")] {
            assert!(refused.is_err_and(|why| why.contains('0')));
        }
        assert!(parse_limit("1K").is_err() && parse_alignment("-1").is_err());
    }

    #[test]
    fn nothing_found_in_a_part_is_an_error() {
        let stats = SearchStats {
            searched: 4096,
            ..SearchStats::default()
        };
        assert!(matches!(conclude(&stats, true), Ok(false)));
        let unreadable = 8192;
        let part = SearchStats {
            unreadable,
            ..stats
        };
        let error = conclude(&part, true).expect_err("not all was searched");
        let text = error.to_string();
        assert!(text.contains("8 KiB") && text.contains("4 KiB"), "{text}");
        // What was found, or that a reader had seen enough, is true of a part as well.
        let found = SearchStats { found: 1, ..part };
        assert!(matches!(conclude(&found, true), Ok(true)));
        let ended_early = SearchStats {
            ended_early: true,
            ..part
        };
        assert!(matches!(conclude(&ended_early, true), Ok(false)));
    }

    #[test]
    fn an_array_that_was_begun_is_closed_also_where_the_search_fails() {
        let begun = Form::Json { first: false };
        let not_begun = Form::Json { first: true };
        assert_eq!((begun.end(true), begun.end(false)), ("\n]\n", "\n]\n"));
        assert_eq!((not_begun.end(true), not_begun.end(false)), ("[]\n", ""));
        assert_eq!((Form::Lines.end(true), Form::Lines.end(false)), ("", ""));
    }
}
