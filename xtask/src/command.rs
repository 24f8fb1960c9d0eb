//! Runs programs of the host: quietly with their output kept for the error message, or in the open.
//!
//! A program that fails gives an error with its command line, its exit status and what it said. Nothing that runs
//! here may write to our standard output, so in the open means: to standard error.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The command line as a user would type it.
pub fn line(command: &Command) -> String {
    let mut words = vec![quoted(command.get_program())];
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

/// One word, in single quotes where a shell needs them.
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs `command` with its output kept, and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", line(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}: {}\n{}{}",
            line(command),
            output.status,
            text,
            complaint.trim_end()
        );
    }
    Ok(text)
}

/// Runs `command` with both of its outputs on our standard error.
pub fn visible(command: &mut Command) -> Result<()> {
    let error = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot copy standard error")?;
    let status = command
        .stdout(error)
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// The same command, run with what processor time nobody else wants, where the host has the programs for that.
pub fn at_leisure(command: &Command) -> Command {
    let mut words: Vec<&OsStr> = Vec::new();
    for wrapper in [&["chrt", "--idle", "0"][..], &["nice", "-n", "19"]] {
        if find(wrapper[0]).is_some() {
            words.extend(wrapper.iter().map(OsStr::new));
        }
    }
    words.push(command.get_program());
    words.extend(command.get_args());
    let mut leisurely = Command::new(words.remove(0));
    leisurely.args(words);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => leisurely.env(name, value),
            None => leisurely.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        leisurely.current_dir(directory);
    }
    leisurely
}

/// Looks for a program on `PATH`, then in the directories that hold the administrator's programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrator = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(administrator)
        .map(|directory| directory.join(program))
        .find(|file| is_program(file))
}

/// Whether `file` is a regular file that somebody may execute.
fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_needed() {
        assert_eq!(quoted("a-b=c"), "a-b=c");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_command_at_leisure_is_the_same_command() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $WORD $GONE in $(pwd)"]);
        command.env("WORD", "two words").env_remove("GONE");
        command.current_dir("/usr");
        let said = output(&mut at_leisure(&command)).expect("it runs");
        assert_eq!(said, "two words in /usr\n");
    }

    #[test]
    fn a_failing_program_is_an_error_with_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo out; echo complaint >&2; exit 3"]))
            .expect_err("must fail");
        let text = error.to_string();
        assert!(
            text.contains("complaint") && text.contains("exit status: 3"),
            "{text}"
        );
    }
}
