//! Words that some rooms may not use: `link` does no I/O, reads no clock and allocates nothing, and only `graft` stops
//! another process.

use super::Finding;
use super::source::Source;

/// What `link` may not name outside its tests, with what it would break.
const LINK: [(&[&str], &str); 16] = [
    (&["std", ":", ":"], "link is no_std"),
    (&["extern", "crate", "std"], "link is no_std"),
    (&["extern", "crate", "alloc"], "link allocates nothing"),
    (&["alloc", ":", ":"], "link allocates nothing"),
    (&["Vec"], "link allocates nothing"),
    (&["String"], "link allocates nothing"),
    (&["Box"], "link allocates nothing"),
    (&["Rc"], "link allocates nothing"),
    (&["Arc"], "link allocates nothing"),
    (&["vec", "!"], "link allocates nothing"),
    (&["format", "!"], "link allocates nothing"),
    (&["Instant"], "link reads no clock"),
    (&["SystemTime"], "link reads no clock"),
    (&["println", "!"], "link does no I/O"),
    (&["eprintln", "!"], "link does no I/O"),
    (&["dbg", "!"], "link does no I/O"),
];

/// Looks at each word of a file.
pub fn check(source: &Source) -> Vec<Finding> {
    let in_link = source.crate_name() == Some("link");
    // xtask lets other processes read its VMs under Yama, which is a word of the same kernel interface.
    let may_trace = source.crate_name() == Some("graft") || source.file.starts_with("xtask/");
    let mut findings = Vec::new();
    for (position, token) in source.tokens.iter().enumerate() {
        if in_link && !token.test {
            let broken = LINK.iter().find(|(words, _)| source.reads(position, words));
            findings.extend(broken.map(|(words, rule)| {
                Finding::new(
                    &source.file,
                    token.line,
                    format!("{} may not be used here: {rule}", words.concat()),
                )
            }));
        }
        if !may_trace && traces(&token.text) {
            findings.push(Finding::new(
                &source.file,
                token.line,
                format!("{}: only graft may use ptrace", token.text),
            ));
        }
    }
    if source.file == "crates/link/src/lib.rs"
        && !source.tokens.iter().any(|token| token.text == "no_std")
    {
        findings.push(Finding::new(&source.file, 1, "link must be no_std"));
    }
    findings
}

/// Whether a word belongs to the interface that stops and changes other processes. Reading Yama's setting does not.
fn traces(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    word != "ptrace_scope" && (word == "ptrace" || word.starts_with("ptrace_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;

    fn count(file: &str, text: &str) -> usize {
        check(&source(file, text)).len()
    }

    #[test]
    fn link_stays_without_clock_heap_and_system() {
        let link = "crates/link/src/a.rs";
        for bad in [
            "use std::time::Duration;",
            "let x: Vec<u8>;",
            "Instant::now()",
            "extern crate alloc;",
            "format!(\"\")",
        ] {
            assert_eq!(count(link, bad), 1, "{bad}");
        }
        assert_eq!(
            count(link, "#[cfg(test)] mod tests { use std::vec::Vec; }"),
            0
        );
        assert_eq!(count(link, "// Vec\nuse core::fmt;"), 0);
        assert_eq!(count("crates/link/tests/a.rs", "use std::vec::Vec;"), 0);
        assert_eq!(count("crates/host/src/a.rs", "let x: Vec<u8>;"), 0);
        assert_eq!(count("crates/link/src/lib.rs", "fn a() {}"), 1);
    }

    #[test]
    fn only_graft_may_trace() {
        assert_eq!(
            count("crates/host/src/a.rs", "libc::ptrace(PTRACE_SEIZE)"),
            2
        );
        assert_eq!(
            count("crates/graft/src/a.rs", "libc::ptrace(PTRACE_SEIZE)"),
            0
        );
        assert_eq!(
            count(
                "crates/ram/src/a.rs",
                "// ptrace\nfn ptrace_scope() -> u32 { 0 }"
            ),
            0
        );
    }
}
