//! `vmshm display` as users type it, without a VM: arguments, help, and what is said when
//! there is nothing to show.
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::process::{Command, Output};

fn display(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmshm"))
        .arg("display")
        .args(arguments)
        .output()
        .expect("it runs")
}

fn refused(arguments: &[&str]) -> String {
    let output = display(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for arguments in [
        &["vm", "--add", "640x480", "--screen", "0"][..],
        &["vm", "--add", "640x480", "--mode", "800x600"],
        &["vm", "--add", "640x480", "--list"],
        &["vm", "--list", "--screen", "0"],
        &["vm", "--list", "--stats"],
        &["vm", "--list", "--screenshot", "x.png"],
        &["vm", "--screenshot", "x.png", "--fullscreen"],
        &["vm", "--screenshot", "x.png", "--follow"],
        &["vm", "--screenshot", "x.png", "--stats"],
        &["vm", "--nowhere", "5", "--screenshot", "x.png"],
        &["vm", "--fullscreen", "--fullscreen"],
    ] {
        let text = refused(arguments);
        assert!(text.contains("cannot be used"), "{arguments:?}: {text}");
    }
    let text = refused(&["vm", "--json"]);
    assert!(text.contains("--list"), "{text}");
    let text = refused(&["vm", "--verify"]);
    assert!(text.contains("--nowhere"), "{text}");
    assert!(refused(&[]).contains("<VM>"));
}

#[test]
fn modes_and_screens_that_cannot_be_say_what_is_expected() {
    for mode in [
        "1920",
        "0x100",
        "20000x100",
        "640x480@0",
        "640x480@2000",
        "axb",
    ] {
        for option in ["--add", "--mode"] {
            let text = refused(&["vm", option, mode]);
            let explained = text.contains("1920x1080") || text.contains("16384 pixels");
            assert!(explained, "{mode}: {text}");
        }
    }
    for screen in ["HEADLESS-1", "-1", "1.5", ""] {
        let text = refused(&["vm", &format!("--screen={screen}")]);
        assert!(text.contains("test-card"), "{screen}: {text}");
    }
    let text = refused(&["vm", "--scaling", "large"]);
    assert!(
        text.contains("integer") && text.contains("smooth"),
        "{text}"
    );
}

#[test]
fn help_shows_examples_and_no_inner_options() {
    let output = display(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    for word in [
        "--add <WxH[@HZ]>",
        "--screen <N|test-card>",
        "--screenshot <FILE.png>",
        "--follow",
        "--no-input",
        "vmshm display web --add 1920x1080",
        "unplugged",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    for word in ["--nowhere", "--verify", "--relayed", "--vnc", "--record"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn a_vm_that_is_not_there_leaves_no_picture_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let picture = directory.path().join("shot.png");
    let path = picture.to_string_lossy().into_owned();
    let text = refused(&["no-such-vm", "--screenshot", &path]);
    assert!(text.contains("no VM is called \"no-such-vm\""), "{text}");
    assert!(text.contains("hint: `vmshm list`"), "{text}");
    let text = refused(&["no-such-vm", "--list"]);
    assert!(text.contains("no VM is called"), "{text}");
    let left = std::fs::read_dir(directory.path()).expect("listed").count();
    assert_eq!(left, 0);
    // What cannot be written is told before anything else is tried.
    let text = refused(&["no-such-vm", "--screenshot", "/no/such/directory/x.png"]);
    assert!(
        text.contains("cannot create /no/such/directory/x.png"),
        "{text}"
    );
}
