//! What is shown, and where: data on stdout, talk on stderr, colour and progress only
//! on a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use vmshm_ram::Source;

use crate::failure::Failure;
use crate::interruption::{Interruption, not_written};
use crate::os;
use crate::output_file::{OutputFile, Readers, is_stream};

/// Whether stderr may be coloured: a terminal that can, and no NO_COLOR (no-color.org).
pub(crate) fn colour_on_stderr() -> bool {
    wants_colour() && io::stderr().is_terminal() && os::shows_colour(&io::stderr())
}

/// The same for stdout.
pub(crate) fn colour_on_stdout() -> bool {
    wants_colour() && io::stdout().is_terminal() && os::shows_colour(&io::stdout())
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text that does nothing to a terminal: whatever a process or a guest chose for a name,
/// control characters and those that turn the direction of writing are shown as
/// escapes.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let acts = |character: char| {
        character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
                | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if acts(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Prints to stdout. A reader that has left is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    tolerate_broken_pipe(io::stdout().write_all(text.as_bytes()))
        .map_err(|error| Failure::from_error(&error, None).because("writing the output"))
}

/// Prints to stdout and lets the reader have it at once.
pub(crate) fn print_at_once(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Takes a broken pipe for success.
pub(crate) fn tolerate_broken_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Names on stderr how a layout is known that is not proved, so that nobody takes a guess
/// for a fact.
pub(crate) fn tell_source(source: Option<Source>, quiet: bool) {
    if let Some(source) = source.filter(|source| *source != Source::Proved) {
        tell(&format!("layout: {source}"), quiet);
    }
}

/// Says something on stderr, unless it is to be quiet.
pub(crate) fn tell(text: &str, quiet: bool) {
    if !quiet {
        // Nobody listens on stderr: no failure of what was asked for.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// A size for people: the largest unit that divides it, else two decimals.
pub(crate) fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let whole = 1_u64 << shift;
        if bytes >= whole {
            return if bytes.is_multiple_of(whole) {
                format!("{} {unit}", bytes / whole)
            } else {
                format!("{:.2} {unit}", bytes as f64 / whole as f64)
            };
        }
    }
    format!("{bytes} B")
}

/// A number of things: "1 extent", "3 extents".
pub(crate) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Lines of a table with columns as wide as their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| plain(cell)).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Where a command's bytes go: a file; raw stdout; or a hexdump on a terminal.
pub(crate) enum ByteSink {
    /// A file, which appears only when it is whole; a signal ends it in good order.
    File {
        file: OutputFile,
        path: PathBuf,
        interruption: Option<Interruption>,
    },
    /// Standard output, raw.
    Raw,
    /// Standard output, a terminal: the address of the next line, and what is left
    /// over for it.
    Hexdump { address: u64, rest: Vec<u8> },
}

impl ByteSink {
    /// Opens the sink; `address` is shown beside the first byte of a hexdump.
    pub(crate) fn open(
        path: Option<&Path>,
        readers: Readers,
        address: u64,
    ) -> Result<Self, Failure> {
        if let Some(path) = path {
            // Where nothing is left behind, a signal may end the process at once, also
            // while it waits for a pipe's reader.
            let interruption = if is_stream(path) {
                None
            } else {
                Some(Interruption::watch()?)
            };
            return Ok(Self::File {
                file: OutputFile::open(path, readers)?,
                path: path.to_owned(),
                interruption,
            });
        }
        Ok(if io::stdout().is_terminal() {
            Self::Hexdump {
                address,
                rest: Vec::new(),
            }
        } else {
            Self::Raw
        })
    }

    /// Takes some bytes; an error of the kind [`ErrorKind::Interrupted`] after a signal.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check_interruption()?;
        match self {
            Self::File { file, .. } => file.put(bytes),
            Self::Raw => io::stdout().write_all(bytes),
            Self::Hexdump { address, rest } => {
                rest.extend_from_slice(bytes);
                let whole = rest.len() / 16 * 16;
                let text = hexdump(*address, rest.get(..whole).unwrap_or_default());
                *address = address.wrapping_add(whole as u64);
                rest.drain(..whole);
                io::stdout().write_all(text.as_bytes())
            }
        }
    }

    /// Ends in good order: nothing exists under the file's name before this.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let done = self.check_interruption().and_then(|()| match self {
            Self::File { file, .. } => file.finish(),
            Self::Raw => io::stdout().flush(),
            Self::Hexdump { address, rest } => {
                io::stdout().write_all(hexdump(address, &rest).as_bytes())
            }
        });
        done.or_else(Self::give_up)
    }

    /// What an error of [`put`](Self::put) means for the command.
    pub(crate) fn give_up(error: io::Error) -> Result<(), Failure> {
        match error.kind() {
            ErrorKind::BrokenPipe => Ok(()),
            ErrorKind::Interrupted => Err(Failure::from_error(&error, None)),
            _ => Err(Failure::from_error(&error, None).because("writing the output")),
        }
    }

    fn check_interruption(&self) -> io::Result<()> {
        match self {
            Self::File {
                path,
                interruption: Some(interruption),
                ..
            } if interruption.came() => {
                Err(io::Error::new(ErrorKind::Interrupted, not_written(path)))
            }
            _ => Ok(()),
        }
    }
}

/// Sixteen bytes a line: address, bytes, and printable characters.
fn hexdump(address: u64, bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(16).enumerate() {
        let at = address.wrapping_add(16 * index as u64);
        let _ = write!(text, "{at:012x} ");
        for column in 0..16 {
            if column == 8 {
                text.push(' ');
            }
            match line.get(column) {
                Some(byte) => {
                    let _ = write!(text, " {byte:02x}");
                }
                None => text.push_str("   "),
            }
        }
        text.push_str("  |");
        for byte in line {
            let shown = if (b' '..=b'~').contains(byte) {
                char::from(*byte)
            } else {
                '.'
            };
            text.push(shown);
        }
        text.push_str("|\n");
    }
    text
}

/// A bar on stderr, shown only on a terminal and not with `--quiet`.
pub(crate) fn bar(steps: u64, what: &str, quiet: bool) -> ProgressBar {
    styled_bar(steps, what, quiet, "{msg} {bar:40} {percent:>3} %")
}

/// The same for bytes, with their rate.
pub(crate) fn byte_bar(bytes: u64, what: &str, quiet: bool) -> ProgressBar {
    let style = "{msg} {bar:20} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}";
    styled_bar(bytes, what, quiet, style)
}

fn styled_bar(steps: u64, what: &str, quiet: bool, style: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if quiet || !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hexdump_shows_addresses_bytes_and_text() {
        let text = hexdump(0x1000, b"0123456789abcdef\x00\x7f");
        assert_eq!(
            text,
            "000000001000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n\
             000000001010  00 7f                                             |..|\n"
        );
    }

    #[test]
    fn names_do_nothing_to_the_terminal() {
        assert!(matches!(
            plain("web \u{fffd} ü"),
            Cow::Borrowed("web \u{fffd} ü")
        ));
        assert_eq!(
            plain("\x1b[2Ja\nb\u{9b}31m\u{202e}"),
            "\\u{1b}[2Ja\\nb\\u{9b}31m\\u{202e}"
        );
        assert_eq!(table(&[vec!["\x07".into(), "b".into()]]), "\\u{7}  b\n");
    }

    #[test]
    fn sizes_and_tables_line_up() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size(1536), "1.50 KiB");
        let rows = [
            vec!["a".into(), "bbb".into()],
            vec!["cc".into(), "d".into()],
        ];
        assert_eq!(table(&rows), "a   bbb\ncc  d\n");
    }
}
