//! The rules about `unsafe`: where it may be, and that a `// SAFETY:` comment stands before each block and impl.

use super::Finding;
use super::source::Source;

/// The only places for `unsafe`: directories end in a slash.
const PLACES: [&str; 23] = [
    "crates/shm/",
    "crates/ram/src/mapping.rs",
    "crates/ram/src/mapping/",
    "crates/ram/src/os/",
    "crates/channel/src/os/windows/",
    "crates/pipe/src/os/windows/",
    "crates/host/src/os/windows/",
    "crates/cli/src/os/windows/",
    "crates/graft/",
    "crates/agent/src/pin.rs",
    "crates/agent/src/pin/",
    "crates/agent/src/pinning.rs",
    "crates/agent/src/pinning/",
    "crates/screens/src/devices/",
    "crates/screens/src/framebuffer/device.rs",
    "crates/screens/src/wlroots/",
    "crates/monitor/src/mapping.rs",
    "crates/monitor/src/mapping/",
    "crates/monitor/src/os/",
    "crates/capi/",
    // A VMM of the tests: KVM takes guest RAM as an address of the process.
    "tests/vm/src/bin/kvm-vmm.rs",
    // One whose RAM is private memory, as QEMU's is.
    "tests/vm/src/bin/played-vmm.rs",
    // One that makes sections as VMMs on Windows do.
    "tests/windows/stand-in/src/os.rs",
];

/// How far above a block its comment may start when a statement runs over several lines.
const REACH: usize = 4;

/// Whether a file is one of the places for `unsafe`.
pub fn may_be_unsafe(file: &str) -> bool {
    PLACES.iter().any(|place| {
        if place.ends_with('/') {
            file.starts_with(place)
        } else {
            file == *place
        }
    })
}

/// Looks at each `unsafe` in a file.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (position, token) in source.tokens.iter().enumerate() {
        if token.text != "unsafe" {
            continue;
        }
        // `unsafe(no_mangle)` and its like are attributes, written where the item is.
        if !may_be_unsafe(&source.file) {
            findings.push(Finding::new(
                &source.file,
                token.line,
                "unsafe may not be used here; see ARCHITECTURE.md for its places",
            ));
        }
        let needs_comment =
            source.reads(position, &["unsafe", "{"]) || source.reads(position, &["unsafe", "impl"]);
        if needs_comment && !has_safety_comment(source, token.line) {
            findings.push(Finding::new(
                &source.file,
                token.line,
                "no // SAFETY: comment stands before this",
            ));
        }
    }
    findings
}

/// Whether the comment on or right above a line says `SAFETY:`. Between them may be the statement's first lines and attributes.
fn has_safety_comment(source: &Source, line: usize) -> bool {
    let says = |line: usize| {
        source
            .comment(line)
            .is_some_and(|comment| comment.trim_start().starts_with("SAFETY:"))
    };
    if says(line) {
        return true;
    }
    let mut skipped = 0;
    for above in (1..line).rev() {
        if says(above) {
            return true;
        }
        let text = source.lines[above - 1].trim();
        if text.starts_with("//") {
            continue;
        }
        skipped += 1;
        // A line that ends a statement or a block has nothing to do with this one.
        let ended = text.is_empty() || (text.ends_with([';', '}']) && !text.starts_with("#["));
        if ended || skipped > REACH {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;

    fn lines(file: &str, text: &str) -> Vec<usize> {
        check(&source(file, text))
            .iter()
            .map(|finding| finding.line)
            .collect()
    }

    #[test]
    fn unsafe_outside_its_places_is_found() {
        let text = "// SAFETY: none needed\nunsafe impl Send for X {}";
        assert_eq!(lines("crates/link/src/a.rs", text), [2]);
        assert_eq!(lines("crates/agent/src/pinner.rs", text), [2]);
        assert_eq!(lines("crates/ram/src/os/linux/memory.rs", text), [0; 0]);
        assert_eq!(lines("crates/shm/src/a.rs", text), [0; 0]);
    }

    #[test]
    fn a_block_needs_a_safety_comment_right_before_it() {
        let file = "crates/shm/src/a.rs";
        assert_eq!(lines(file, "fn a() {\n    let x = unsafe { y() };\n}"), [2]);
        assert_eq!(
            lines(
                file,
                "// SAFETY: for the other\nlet a = unsafe { b() };\nlet x = unsafe { y() };"
            ),
            [3]
        );
        assert_eq!(
            lines(
                file,
                "// SAFETY: held\n// by all.\nlet x =\n    unsafe { y() };"
            ),
            [0; 0]
        );
        assert_eq!(
            lines(file, "f(unsafe { y() }); // SAFETY: on the line"),
            [0; 0]
        );
        assert_eq!(
            lines(
                file,
                "// SAFETY: held.\n#[cfg(x)]\nunsafe impl Send for X {}"
            ),
            [0; 0]
        );
        assert_eq!(lines(file, "/// # Safety\npub unsafe fn a() {}"), [0; 0]);
    }
}
