//! The rules about release and acquire: each is named by a comment, and each name has both ends.
//!
//! `// release: NAME` stands at a store and `// acquire: NAME` at the load that it pairs with, on the same line or at
//! most three lines above. `crates/shm` only offers the operations, so it names none; test code need not.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Finding;
use super::source::Source;

/// How many lines above an operation its name may stand.
const REACH: usize = 3;

/// Looks for operations without a name.
pub fn check_tags(source: &Source) -> Vec<Finding> {
    if source.crate_name().is_none_or(|name| name == "shm") {
        return Vec::new();
    }
    let offered = offers(source);
    let mut findings = Vec::new();
    for (position, token) in source.tokens.iter().enumerate() {
        if token.test || offered.iter().any(|body| body.contains(&position)) {
            continue;
        }
        for end in ends(source, position) {
            let near = token.line.saturating_sub(REACH).max(1)..=token.line;
            if !near
                .into_iter()
                .any(|line| tag(source, line).is_some_and(|(kind, _)| kind == *end))
            {
                let message = format!(
                    "this {end} is not named; write // {end}: NAME at both ends of the pair"
                );
                findings.push(Finding::new(&source.file, token.line, message));
            }
        }
    }
    findings
}

/// Looks for names that have only one end in the whole project.
pub fn check_ends(sources: &[Source]) -> Vec<Finding> {
    let mut names: BTreeMap<&str, BTreeMap<&str, (&str, usize)>> = BTreeMap::new();
    for source in sources
        .iter()
        .filter(|source| source.crate_name().is_some_and(|name| name != "shm"))
    {
        for line in 1..=source.lines.len() {
            if let Some((kind, name)) = tag(source, line) {
                names
                    .entry(name)
                    .or_default()
                    .entry(kind)
                    .or_insert((&source.file, line));
            }
        }
    }
    let mut findings = Vec::new();
    for (name, ends) in names {
        for (end, other) in [("release", "acquire"), ("acquire", "release")] {
            if let (Some((file, line)), None) = (ends.get(end), ends.get(other)) {
                findings.push(Finding::new(
                    file,
                    *line,
                    format!("the pair '{name}' has no {other} end"),
                ));
            }
        }
    }
    findings
}

/// The bodies of functions that are such an operation themselves: what they do is named where they are called.
fn offers(source: &Source) -> Vec<Range<usize>> {
    let is_offer = |position: &usize| {
        ["store_release", "load_acquire"]
            .iter()
            .any(|name| source.reads(*position, &["fn", name]))
    };
    (0..source.tokens.len())
        .filter(is_offer)
        .map(|start| start..end_of_item(source, start))
        .collect()
}

/// The position after the item that starts at `start`: after its body, or after its semicolon.
fn end_of_item(source: &Source, start: usize) -> usize {
    let mut depth = 0_usize;
    for (position, token) in source.tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth <= 1 => return position + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return position + 1,
            _ => {}
        }
    }
    source.tokens.len()
}

/// Which ends of a pair the token at `position` is: none for most tokens, two for `AcqRel`.
fn ends(source: &Source, position: usize) -> &'static [&'static str] {
    let token = &source.tokens[position];
    let call = source.reads(position + 1, &["("]) && source.before(position) != "fn";
    let ordering = position >= 3 && source.reads(position - 3, &["Ordering", ":", ":"]);
    match token.text.as_str() {
        "Release" if ordering => &["release"],
        "Acquire" if ordering => &["acquire"],
        "AcqRel" if ordering => &["release", "acquire"],
        "store_release" if call => &["release"],
        "load_acquire" if call => &["acquire"],
        _ => &[],
    }
}

/// The end and the name that a line's comment gives.
fn tag(source: &Source, line: usize) -> Option<(&'static str, &str)> {
    let comment = source.comment(line)?.trim_start();
    ["release", "acquire"].into_iter().find_map(|kind| {
        let name = comment
            .strip_prefix(kind)?
            .strip_prefix(':')?
            .split_whitespace()
            .next()?;
        Some((kind, name.trim_end_matches(['.', ',', ';'])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;

    const LINK: &str = "crates/link/src/a.rs";

    #[test]
    fn an_operation_without_a_name_is_found() {
        let bare = "fn a() { m.store_release(0, 1); }\nfn b() { w.load(Ordering::Acquire); }";
        assert_eq!(check_tags(&source(LINK, bare)).len(), 2);
        assert_eq!(check_tags(&source("crates/shm/src/a.rs", bare)), []);
        assert_eq!(check_tags(&source("crates/link/tests/a.rs", bare)), []);
        let wrong_end = "// acquire: x\nm.store_release(0, 1);";
        assert_eq!(check_tags(&source(LINK, wrong_end)).len(), 1);
        let too_far = "// release: x\n\n\n\nm.store_release(0, 1);";
        assert_eq!(check_tags(&source(LINK, too_far)).len(), 1);
        let named =
            "// release: x\nm.store_release(0, 1);\nlet a = m.load_acquire(0); // acquire: x";
        assert_eq!(check_tags(&source(LINK, named)), []);
    }

    #[test]
    fn a_declaration_is_no_operation() {
        assert_eq!(
            check_tags(&source(LINK, "trait T { fn load_acquire(&self) -> u64; }")),
            []
        );
        let forwards = "fn load_acquire(&self) -> u64 { self.inner.load_acquire() }\nfn other() { x.load_acquire(0) }";
        assert_eq!(check_tags(&source(LINK, forwards)).len(), 1);
        assert_eq!(
            check_tags(&source(LINK, "fn a() { run(Task::Release) }")),
            []
        );
    }

    #[test]
    fn a_name_with_one_end_is_found() {
        let sources = [
            source(LINK, "// release: lone\n// release: paired"),
            source("crates/ram/src/b.rs", "// acquire: paired"),
        ];
        let findings = check_ends(&sources);
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].line, findings[0].message.contains("lone")),
            (1, true)
        );
    }
}
