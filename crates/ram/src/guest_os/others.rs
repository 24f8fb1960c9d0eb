//! Systems other than Linux, each by the version text that its kernel carries. Such a
//! text counts only as it stands in a kernel, since manuals and package lists are full
//! of names. The forms are from the systems' sources (`sys/conf/newvers.sh` of the BSDs,
//! XNU's `version.c`, illumos's `genunix`) and, for Windows, from what its kernel is
//! known to hold (the build laboratory's text and its debug file's name).

use memchr::memmem::Finder;

use super::{IMAGE_WEIGHT, Votes, line};

/// What a guest without a system is said to run.
pub(super) const NO_SYSTEM: &str = "no OS";
/// How far before its mark Windows's build number may start.
const BUILD_DIGITS: usize = 16;

/// A text that marks a system.
#[derive(Debug, Clone, Copy)]
enum Mark {
    FreeBsd,
    OpenBsd,
    NetBsd,
    Darwin,
    SunOs,
    WindowsBuild,
    WindowsKernel,
    SeaBios,
    Edk,
}

const MARKS: [(&[u8], Mark); 9] = [
    (b"FreeBSD ", Mark::FreeBsd),
    (b"OpenBSD ", Mark::OpenBsd),
    (b"NetBSD ", Mark::NetBsd),
    (b"Darwin Kernel Version ", Mark::Darwin),
    (b"SunOS Release ", Mark::SunOs),
    (b".amd64fre.", Mark::WindowsBuild),
    (b"ntkrnlmp.pdb\0", Mark::WindowsKernel),
    (b"SeaBIOS (version ", Mark::SeaBios),
    (b"E\0D\0K\0 \0I\0I\0\0\0", Mark::Edk),
];

/// What looks for the marks.
pub(super) struct Finders(Vec<(Finder<'static>, Mark)>);

/// Made once for many buffers.
pub(super) fn finders() -> Finders {
    let finders = MARKS.iter().map(|(text, mark)| (Finder::new(*text), *mark));
    Finders(finders.collect())
}

/// Counts the marks in `bytes`.
pub(super) fn count(finders: &Finders, bytes: &[u8], votes: &mut Votes) {
    for (finder, mark) in &finders.0 {
        for at in finder.find_iter(bytes) {
            judge(*mark, bytes, at, votes);
        }
    }
}

fn judge(mark: Mark, bytes: &[u8], at: usize, votes: &mut Votes) {
    let here = bytes.get(at..).and_then(line);
    let found = match mark {
        Mark::FreeBsd => here.and_then(free_bsd).map(|release| ("FreeBSD", release)),
        Mark::OpenBsd => here
            .and_then(numbered_build)
            .map(|release| ("OpenBSD", release)),
        Mark::NetBsd => here
            .and_then(numbered_build)
            .map(|release| ("NetBSD", release)),
        Mark::Darwin => here.and_then(darwin).map(|release| ("Darwin", release)),
        Mark::SunOs => here.and_then(sun_os).map(|release| ("SunOS", release)),
        Mark::WindowsBuild => {
            if let Some(build) = windows_build(bytes, at) {
                votes.add("Windows", build, IMAGE_WEIGHT, build);
            }
            return;
        }
        Mark::WindowsKernel => {
            // The name is in every kernel; the build's number says which one runs.
            if let Some(build) = votes.build_of("Windows") {
                votes.add("Windows", &build, IMAGE_WEIGHT, "ntkrnlmp.pdb");
            }
            return;
        }
        Mark::SeaBios => {
            let version =
                here.and_then(|(text, _)| text.split_once("(version ")?.1.split_once(')'));
            if let Some((version, _)) = version.filter(|(version, _)| !version.contains('%')) {
                votes.firmware.get_or_insert(format!("SeaBIOS {version}"));
            }
            return;
        }
        Mark::Edk => {
            votes
                .firmware
                .get_or_insert("EFI firmware, EDK II".to_owned());
            return;
        }
    };
    if let (Some((system, release)), Some((text, _))) = (found, here) {
        votes.add(system, release, IMAGE_WEIGHT, text);
    }
}

/// `FreeBSD 14.1-RELEASE-p3 releng/… GENERIC`, and the end of the line and of the text.
fn free_bsd<'a>((text, rest): (&'a str, &[u8])) -> Option<&'a str> {
    const BRANCHES: [&str; 7] = [
        "RELEASE",
        "STABLE",
        "CURRENT",
        "RC",
        "BETA",
        "ALPHA",
        "PRERELEASE",
    ];
    let mut words = text.split(' ').skip(1);
    let release = words.next()?;
    let (number, branch) = release.split_once('-')?;
    let right = is_number(number)
        && BRANCHES.iter().any(|known| branch.starts_with(known))
        && words.next().is_some()
        && rest.starts_with(b"\n\0");
    right.then_some(release)
}

/// `OpenBSD 7.5 (GENERIC.MP) #82: Wed Mar …`, a line break and where it was built.
fn numbered_build<'a>((text, rest): (&'a str, &[u8])) -> Option<&'a str> {
    let mut words = text.split(' ').skip(1);
    let release = words.next()?;
    let configuration = words.next()?;
    let build = words.next()?.strip_prefix('#')?;
    let number = build.strip_suffix(':').unwrap_or(build);
    let right = release.split(['_', '-']).next().is_some_and(is_number)
        && configuration.starts_with('(')
        && configuration.ends_with(')')
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && rest.first() == Some(&b'\n')
        && matches!(rest.get(1), Some(b' ' | b'\t' | 0));
    right.then_some(release)
}

/// `Darwin Kernel Version 23.1.0: Mon Oct …; root:xnu-10002…`.
fn darwin<'a>((text, rest): (&'a str, &[u8])) -> Option<&'a str> {
    let (release, build) = text.split_once("Version ")?.1.split_once(':')?;
    let right = is_number(release) && build.contains("root:xnu-") && rest.first() == Some(&0);
    right.then_some(release)
}

/// `SunOS Release 5.11 Version illumos-… 64-bit`, as the kernel says when it starts.
fn sun_os<'a>((text, _): (&'a str, &[u8])) -> Option<&'a str> {
    let rest = text.strip_prefix("SunOS Release ")?;
    let (release, version) = rest.split_once(" Version ")?;
    let (version, bits) = version.split_once(' ')?;
    let right = is_number(release) && !version.contains('%') && bits.starts_with("64-bit");
    // "5.11 Version illumos-…" without the words after it.
    right.then(|| rest.get(..rest.len() - bits.len() - 1))?
}

/// `19041.1.amd64fre.vb_release.191206-1406`: the build's number before the mark at `at`.
fn windows_build(bytes: &[u8], at: usize) -> Option<&str> {
    let before = bytes.get(at.saturating_sub(BUILD_DIGITS)..at)?;
    let start = before
        .iter()
        .rposition(|byte| !(byte.is_ascii_digit() || *byte == b'.'))
        .map_or(0, |index| index + 1);
    let numbers = std::str::from_utf8(before.get(start..)?).ok()?;
    let (build, revision) = numbers.split_once('.')?;
    let (text, rest) = line(bytes.get(at..)?)?;
    let (_, date) = text.rsplit_once('.')?;
    let (day, time) = date.split_once('-')?;
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let right = (4..=5).contains(&build.len())
        && !revision.is_empty()
        && digits(day, 6)
        && digits(time, 4)
        && rest.first() == Some(&0);
    right.then_some(build)
}

/// Digits and dots, with a digit at either end.
fn is_number(text: &str) -> bool {
    let digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_digit());
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text.contains('.')
        && digit(text.bytes().next())
        && digit(text.bytes().last())
}

impl Votes {
    /// The release of a system that speaks most so far.
    fn build_of(&self, system: &str) -> Option<String> {
        let seen = self.systems.iter().filter(|((name, _), _)| *name == system);
        let best = seen.max_by_key(|(_, vote)| vote.weight)?;
        Some(best.0.1.clone())
    }
}
