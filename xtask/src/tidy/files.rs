//! Rules about whole files: how they open, how long they are, what they are called, and that they name no machine.

use super::Finding;
use super::source::Source;

/// More lines than this are worth a note.
const LONG: usize = 400;

/// More lines than this are an error.
const TOO_LONG: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = [
    "util", "utils", "common", "helper", "helpers", "misc", "stuff",
];

/// Looks at a path's parts.
pub fn check_name(file: &str) -> Option<Finding> {
    let stem = |part: &str| part.split('.').next().unwrap_or_default().to_owned();
    let empty = file
        .split('/')
        .map(stem)
        .find(|name| EMPTY_NAMES.contains(&name.as_str()))?;
    Some(Finding::new(
        file,
        1,
        format!("the name '{empty}' does not say what is inside; call it after its one purpose"),
    ))
}

/// Looks at any text file.
pub fn check_text(file: &str, text: &str) -> Vec<Finding> {
    // Written in two parts so that this file does not find itself.
    let machine_path = concat!("/wo", "rk/");
    let named = |(number, line): (usize, &str)| {
        line.contains(machine_path).then(|| {
            Finding::new(
                file,
                number + 1,
                format!("{machine_path}… is a path of one machine"),
            )
        })
    };
    text.lines().enumerate().filter_map(named).collect()
}

/// Looks at a Rust file's head and length.
pub fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source
        .lines
        .first()
        .is_some_and(|line| line.starts_with("//! "))
    {
        findings.push(Finding::new(
            &source.file,
            1,
            "the file does not open with a //! head: what it is for, what it refuses",
        ));
    }
    let lines = source.lines.len();
    if lines > TOO_LONG {
        findings.push(Finding::new(
            &source.file,
            lines,
            format!("{lines} lines; split files of more than {TOO_LONG}"),
        ));
    } else if lines > LONG {
        findings.push(
            Finding::new(
                &source.file,
                lines,
                format!("{lines} lines; {LONG} is a good limit"),
            )
            .into_note(),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::tests::source;

    #[test]
    fn a_file_without_a_head_is_found() {
        assert_eq!(
            check_source(&source("a.rs", "// plain\nfn a() {}")).len(),
            1
        );
        assert_eq!(check_source(&source("a.rs", "\n//! late")).len(), 1);
        assert_eq!(check_source(&source("a.rs", "//! Head.\nfn a() {}")), []);
    }

    #[test]
    fn long_files_are_noted_and_too_long_ones_are_errors() {
        let text = |lines: usize| format!("//! Head.\n{}", "// line\n".repeat(lines - 1));
        assert!(check_source(&source("a.rs", &text(400))).is_empty());
        assert!(check_source(&source("a.rs", &text(401)))[0].note);
        assert!(!check_source(&source("a.rs", &text(801)))[0].note);
    }

    #[test]
    fn empty_names_are_found_anywhere_in_a_path() {
        for bad in [
            "a/utils.rs",
            "tests/common/mod.rs",
            "helpers/x.rs",
            "misc.md",
        ] {
            assert!(check_name(bad).is_some(), "{bad}");
        }
        assert!(check_name("crates/uncommon/helpers_of_x.rs").is_none());
    }

    #[test]
    fn machine_paths_are_found_with_their_line() {
        let text = format!("fine\nsee {}x\n", concat!("/wo", "rk/"));
        assert_eq!(check_text("README.md", &text)[0].line, 2);
    }
}
