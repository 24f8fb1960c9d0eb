//! Linux: the banner in the kernel's read-only data, and the notes that the kernel keeps
//! for a crash (VMCOREINFO), which are made when it starts and lie in no file.

use super::{IMAGE_WEIGHT, Votes, line};

const SYSTEM: &str = "Linux";
const BANNER: &[u8] = b"Linux version ";
/// The first of the crash notes, and what one of the next ones starts with.
const NOTE: &[u8] = b"OSRELEASE=";
const NEXT_NOTES: [&[u8]; 2] = [b"\nBUILD-ID=", b"\nPAGESIZE="];

/// Counts the banners and notes in `bytes`.
pub(super) fn count(bytes: &[u8], votes: &mut Votes) {
    for at in memchr::memmem::find_iter(bytes, BANNER) {
        if let Some(seen) = bytes.get(at..).and_then(parse) {
            let weight = if seen.in_image { IMAGE_WEIGHT } else { 1 };
            votes.add(SYSTEM, seen.release, weight, seen.text);
        }
    }
    for at in memchr::memmem::find_iter(bytes, NOTE) {
        if let Some((release, text)) = bytes.get(at..).and_then(note) {
            votes.add(SYSTEM, release, IMAGE_WEIGHT, text);
        }
    }
}

fn is_release(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        && word.contains('.')
        && word.bytes().all(|byte| byte.is_ascii_graphic())
        && !word.contains('%')
}

/// The release in crash notes at the start of `bytes`.
fn note(bytes: &[u8]) -> Option<(&str, &str)> {
    let (text, rest) = line(bytes)?;
    let release = text.strip_prefix("OSRELEASE=")?;
    let followed = NEXT_NOTES.iter().any(|next| rest.starts_with(next));
    (is_release(release) && followed).then_some((release, text))
}

/// A complete banner.
struct Banner<'a> {
    text: &'a str,
    release: &'a str,
    /// Whether it ends as in a kernel's image.
    in_image: bool,
}

/// A complete banner at the start of `bytes`: `Linux version RELEASE (BUILDER)
/// (COMPILER) #…` to the end of the line. The build's number may be missing in an image.
fn parse(bytes: &[u8]) -> Option<Banner<'_>> {
    let (text, rest) = line(bytes)?;
    let mut words = text.split(' ').skip(2);
    let release = words.next()?;
    let builder = words.next()?;
    let looks_right = is_release(release)
        && builder.starts_with('(')
        && builder.ends_with(')')
        && words.next()?.starts_with('(');
    let (_, build) = text.split_once(") #")?;
    let number = build.split(' ').next()?;
    let in_image = rest.starts_with(b"\n\0");
    let numbered = number.bytes().all(|byte| byte.is_ascii_digit())
        && build.len() > number.len()
        && (!number.is_empty() || in_image);
    (looks_right && numbered).then_some(Banner {
        text,
        release,
        in_image,
    })
}
