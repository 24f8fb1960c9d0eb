//! The rules for programs: what they allow, and what is no rule.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::rules::{DEFAULT, Rules, RulesError};
use vmshm_channel::credentials::User;

fn parse(text: &str) -> Result<Rules, RulesError> {
    Rules::parse(Path::new("rules"), text)
}

fn user(uid: u32, groups: &[u32]) -> User {
    User {
        uid,
        gid: uid,
        groups: groups.to_vec(),
    }
}

#[test]
fn entries_allow_users_and_groups_names_and_prefixes() {
    let rules = parse(
        r#"
        [[allow]]
        uid = 1000
        regions = ["numbers", "web-*"]

        [[allow]]
        gid = 50
        regions = ["*"]
        make = true
        max_size = "64K"

        [[allow]]
        uid = 1000
        gid = 60
        regions = ["both"]
        make = true
        "#,
    )
    .expect("rules");
    let one = user(1000, &[]);
    for (name, allowed) in [
        ("numbers", true),
        ("number", false),
        ("numbers2", false),
        ("web-", true),
        ("web-1", true),
        ("both", false),
    ] {
        assert_eq!(rules.may_open(&one, name).is_ok(), allowed, "{name}");
    }
    assert!(rules.may_remove(&one, "numbers").is_err());
    let reason = rules.may_make(&one, "numbers", 1).expect_err("denied");
    assert!(reason.contains("there is no region"), "{reason}");
    let member = user(7, &[50]);
    assert!(rules.may_remove(&member, "anything").is_ok());
    assert!(rules.may_open(&member, "anything").is_ok());
    assert!(rules.may_make(&member, "x", 64 << 10).is_ok());
    assert!(rules.may_make(&member, "x", (64 << 10) + 1).is_err());
    let both = user(1000, &[60]);
    assert!(rules.may_make(&both, "both", 1 << 40).is_ok());
    assert!(rules.may_open(&user(1001, &[60]), "both").is_err());
    assert!(rules.know(&one) && rules.know(&member) && !rules.know(&user(8, &[])));
    assert!(rules.ask_for_groups());
}

#[test]
fn without_a_file_only_root_may() {
    let rules = Rules::none();
    assert!(rules.may_make(&user(0, &[]), "x", 1 << 40).is_ok());
    let reason = rules.may_open(&user(1000, &[]), "x").expect_err("denied");
    assert!(reason.contains("user 1000") && reason.contains("`x`") && reason.contains(DEFAULT));
}

#[test]
fn what_is_no_rule_is_refused_with_its_line() {
    for (text, line, part) in [
        ("[[allow]]\nuid = 1\nregion = [\"x\"]", 3, "region"),
        ("[[deny]]\nuid = 1", 1, "deny"),
        ("\n[[allow]]\nregions = [\"x\"]", 2, "uid"),
        ("[[allow]]\nuid = 1\nregions = []", 1, "at least one"),
        ("[[allow]]\nuid = 1", 1, "regions"),
        ("[[allow]]\nuid = -1\nregions = [\"x\"]", 2, "-1"),
        ("[[allow]]\nuid = \"joe\"\nregions = [\"x\"]", 2, "string"),
        ("[[allow]]\nuid = 1\nregions = [\"a*b\"]", 3, "star"),
        ("[[allow]]\nuid = 1\nregions = [\"../x\"]", 3, "called"),
        ("[[allow]]\nuid = 1\nregions = [\"\"]", 3, "called"),
        (
            "[[allow]]\nuid = 1\nregions = [\"x\"]\nmake = true\nmax_size = \"lots\"",
            5,
            "64K",
        ),
        (
            "[[allow]]\nuid = 1\nregions = [\"x\"]\nmax_size = \"1M\"",
            1,
            "make",
        ),
        ("[[allow]\nuid = 1", 1, ""),
        ("allow = 3", 1, "integer"),
    ] {
        match parse(text) {
            Err(RulesError::Wrong {
                line: found,
                reason,
                ..
            }) => {
                assert_eq!(found, line, "{text}: {reason}");
                assert!(reason.contains(part), "{text}: {reason}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(parse("").is_ok_and(|rules| !rules.know(&user(1, &[]))));
}

#[test]
fn a_named_file_must_be_there_and_nobody_elses_to_change() {
    let directory = tempfile::tempdir().expect("succeeds");
    let path = directory.path().join("agent.toml");
    assert!(matches!(
        Rules::read(Some(&path)),
        Err(RulesError::Read { .. })
    ));
    fs::write(&path, "[[allow]]\nuid = 5\nregions = [\"*\"]").expect("succeeds");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("succeeds");
    assert!(Rules::read(Some(&path)).is_ok());
    fs::set_permissions(&path, Permissions::from_mode(0o664)).expect("succeeds");
    assert!(matches!(
        Rules::read(Some(&path)),
        Err(RulesError::Unsafe(_))
    ));
    assert!(matches!(
        Rules::read(Some(directory.path())),
        Err(RulesError::Read { .. })
    ));
}
