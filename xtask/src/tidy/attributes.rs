//! The rule that `unsafe` code is opened only where it may live, and with a reason.

use super::Finding;
use super::source::Source;
use super::unsafety::may_be_unsafe;

/// Looks for `allow(unsafe_code)` and `expect(unsafe_code)`.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for position in 0..source.tokens.len() {
        let opens =
            source.reads(position, &["allow", "("]) || source.reads(position, &["expect", "("]);
        if !opens {
            continue;
        }
        let rest = &source.tokens[position + 2..];
        let end = rest
            .iter()
            .position(|token| token.text == ")")
            .unwrap_or(rest.len());
        let has = |word: &str| rest[..end].iter().any(|token| token.text == word);
        if !has("unsafe_code") {
            continue;
        }
        let line = source.tokens[position].line;
        if !may_be_unsafe(&source.file) {
            findings.push(Finding::new(
                &source.file,
                line,
                "this file may not allow unsafe_code",
            ));
        }
        if !has("reason") {
            findings.push(Finding::new(
                &source.file,
                line,
                "allow(unsafe_code) needs a reason = \"…\"",
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;

    #[test]
    fn unsafe_code_is_allowed_with_a_reason_and_in_its_places() {
        let bare = "#![allow(unsafe_code)]";
        let reasoned = "#![allow(unsafe_code, reason = \"maps memory\")]";
        assert_eq!(check(&source("crates/shm/src/word.rs", reasoned)), []);
        assert_eq!(check(&source("crates/shm/src/word.rs", bare)).len(), 1);
        assert_eq!(check(&source("crates/link/src/ring.rs", reasoned)).len(), 1);
        assert_eq!(
            check(&source("crates/link/src/ring.rs", "#![allow(dead_code)]")),
            []
        );
    }
}
