//! `cargo xtask tidy`: the invariants that a program can check, each finding with file and line.
//!
//! Looks at every file that git knows or would add. Each rule lives in a module of its own and has tests that show it
//! finding something. Notes inform; errors fail the command.

mod attributes;
mod edges;
mod files;
mod pairs;
mod seam;
mod source;
mod unsafety;
mod words;

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{checkout, command};
use source::Source;

/// Something that a rule has to say about one place.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the checkout.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong, and what is expected.
    pub message: String,
    /// Whether this only informs.
    pub note: bool,
}

impl Finding {
    /// An error at a place.
    pub fn new(file: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            message: message.into(),
            note: false,
        }
    }

    /// The same as a note.
    pub fn into_note(mut self) -> Self {
        self.note = true;
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.note { "note: " } else { "" };
        write!(
            formatter,
            "{}:{}: {kind}{}",
            self.file, self.line, self.message
        )
    }
}

/// Checks the checkout, prints the findings, and gives the number of errors.
pub fn run() -> Result<usize> {
    let mut findings = edges::check()?;
    let mut sources = Vec::new();
    for file in tracked()? {
        findings.extend(files::check_name(&file));
        // A file that git knows and somebody deleted, or one that is no text, has nothing more to check.
        let Ok(text) = std::fs::read_to_string(checkout::root().join(&file)) else {
            continue;
        };
        findings.extend(files::check_text(&file, &text));
        if Path::new(&file)
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            match Source::parse(&file, text) {
                Ok(source) => sources.push(source),
                Err(finding) => findings.push(finding),
            }
        }
    }
    source::mark_files_of_test_modules(&mut sources);
    for source in &sources {
        findings.extend(check_source(source));
    }
    findings.extend(pairs::check_ends(&sources));
    findings.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.note).count();
    println!(
        "tidy: {} Rust files, {errors} errors, {} notes",
        sources.len(),
        findings.len() - errors
    );
    Ok(errors)
}

/// All rules that look at one Rust file.
fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = files::check_source(source);
    findings.extend(attributes::check(source));
    findings.extend(unsafety::check(source));
    findings.extend(pairs::check_tags(source));
    findings.extend(words::check(source));
    findings.extend(seam::check(source));
    findings
}

/// The files that git tracks or would add, relative to the checkout.
fn tracked() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(checkout::root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listed = command::output(&mut git).context("tidy asks git for the project's files")?;
    let mut files: Vec<String> = listed
        .split('\0')
        .filter(|file| !file.is_empty())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
