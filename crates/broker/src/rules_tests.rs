//! What rules allow, and that everything else is refused.

use super::*;

fn rules(text: &str) -> Rules {
    Rules::parse(Path::new("rules.toml"), text).expect("good rules")
}

fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
    User {
        uid,
        gid,
        groups: groups.to_vec(),
    }
}

fn vm(name: &str) -> Found {
    Found {
        pid: 4242,
        start_time: 1,
        vmm: "qemu".to_owned(),
        name: name.to_owned(),
        owner: Some(64055),
    }
}

const TEXT: &str = r#"
[[allow]]
uid = 1000
vms = ["web"]
regions = ["numbers", "web-*"]

[[allow]]
uid = 1000
vms = ["qemu:test-*"]
regions = ["*"]
make = true
max_size = "64M"

[[allow]]
gid = 100
vms = ["*"]
owner = 64055
screens = true

[[allow]]
uid = 1001
gid = 100
vms = ["4242"]
screens = true
input = true
"#;

#[test]
fn nothing_is_allowed_that_no_entry_allows() {
    let rules = rules(TEXT);
    let one = user(1000, 1000, &[]);
    let web = rules.of(&one, &vm("web")).expect("something");
    assert_eq!(web.may_open("numbers"), Ok(()));
    assert_eq!(web.may_open("web-7"), Ok(()));
    assert!(web.may_open("number").is_err() && web.may_open("my-web-7").is_err());
    assert!(web.may_make("numbers", 1).is_err() && web.may_remove("numbers").is_err());
    assert!(web.may_see_screens().is_err() && web.may_give_input().is_err());
    let test = rules.of(&one, &vm("test-7")).expect("something");
    assert_eq!(test.may_make("any", 64 << 20), Ok(()));
    assert!(test.may_make("any", (64 << 20) + 1).is_err());
    assert_eq!(test.may_remove("any"), Ok(()));
    assert!(rules.of(&one, &vm("other")).is_none());
    assert!(rules.of(&user(7, 7, &[]), &vm("web")).is_none());
}

#[test]
fn uid_and_gid_must_both_match_and_so_must_the_owner() {
    let rules = rules(TEXT);
    let member = rules
        .of(&user(7, 7, &[4, 100]), &vm("web"))
        .expect("by group");
    assert!(member.may_see_screens().is_ok() && member.may_give_input().is_err());
    let both = rules.of(&user(1001, 100, &[]), &vm("web")).expect("both");
    assert!(both.may_give_input().is_ok());
    let mut foreign = vm("web");
    foreign.owner = Some(1);
    assert!(rules.of(&user(7, 100, &[]), &foreign).is_none());
    assert!(rules.of(&user(1001, 7, &[]), &vm("web")).is_none());
}

#[test]
fn without_a_file_only_root_may() {
    let none = Rules::read(Path::new("/does/not/exist")).expect("no rules");
    assert!(!none.exist() && rules("").exist());
    assert!(none.of(&user(1000, 1000, &[]), &vm("web")).is_none());
    let root = none.of(&user(0, 0, &[]), &vm("web")).expect("root");
    assert!(root.may_make("x", u64::MAX).is_ok() && root.may_give_input().is_ok());
    let why = none.know(&user(1000, 1, &[])).expect_err("unknown");
    assert!(none.know(&user(0, 0, &[])).is_ok());
    assert!(
        why.contains("without /does/not/exist only root may"),
        "{why}"
    );
}

#[test]
fn what_is_no_rule_is_refused_with_its_line() {
    for (text, words) in [
        ("[[allow]]\nvms = [\"x\"]\nregions = [\"y\"]", "uid"),
        ("[[allow]]\nuid = 1\nregions = [\"y\"]", "vms"),
        ("[[allow]]\nuid = 1\nvms = []\nregions = [\"y\"]", "VM"),
        ("[[allow]]\nuid = 1\nvms = [\"x\"]", "screens"),
        (
            "[[allow]]\nuid = 1\nvms = [\"x\"]\nregion = [\"y\"]",
            "region",
        ),
        (
            "[[allow]]\nuid = 1\nvms = [\"x\"]\nregions = [\"y\"]\nmax_size = \"1M\"",
            "make",
        ),
        (
            "[[allow]]\nuid = 1\nvms = [\"x\"]\nregions = [\"y\"]\ninput = true",
            "screens",
        ),
        (
            "[[allow]]\nuid = 1\nvms = [\"\"]\nregions = [\"y\"]",
            "name",
        ),
        ("[[deny]]\nuid = 1", "deny"),
    ] {
        let error = Rules::parse(Path::new("rules.toml"), text).expect_err("no rule");
        let message = error.to_string();
        assert!(
            message.contains("line ") && message.contains(words),
            "{message}"
        );
    }
}

#[test]
fn a_file_that_others_could_change_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("broker.toml");
    std::fs::write(&path, TEXT).expect("written");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    mode(0o644).expect("set");
    assert!(Rules::read(&path).is_ok());
    mode(0o664).expect("set");
    assert!(matches!(Rules::read(&path), Err(RulesError::Unsafe(_))));
    assert!(matches!(
        Rules::read(directory.path()),
        Err(RulesError::Read { .. })
    ));
}

#[test]
fn a_file_that_others_could_replace_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let above = tempfile::tempdir().expect("made");
    let directory = above.path().join("rules");
    std::fs::create_dir(&directory).expect("made");
    let path = directory.join("broker.toml");
    std::fs::write(&path, TEXT).expect("written");
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&path, readable).expect("set");
    let link = above.path().join("link.toml");
    std::os::unix::fs::symlink(&path, &link).expect("made");
    for (mode, good) in [
        (0o755, true),
        (0o777, false),
        (0o775, false),
        (0o1777, true),
    ] {
        let bits = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&directory, bits).expect("set");
        for path in [&path, &link] {
            let result = Rules::read(path);
            assert_eq!(result.is_ok(), good, "{mode:o}: {result:?}");
            let Err(error) = result else { continue };
            assert!(matches!(error, RulesError::Replaceable { .. }), "{error}");
            let name = directory.display().to_string();
            assert!(error.to_string().contains(&name), "{error}");
            assert_eq!(error.hint(), Some(format!("chmod go-w {name}")));
        }
    }
    // It is another user's: given away where that is possible, else seen as by another one.
    let mut own = rustix::process::geteuid().as_raw();
    if own == 0 {
        std::os::unix::fs::chown(&directory, Some(12003), None).expect("we are root");
    } else {
        own += 1;
    }
    let error = Rules::judge_directories(&path, own).expect_err("not ours");
    assert!(
        error.hint().is_some_and(|hint| hint.contains(DEFAULT)),
        "{error}"
    );
}

#[test]
fn stars_are_anything() {
    let matches = |pattern: &str, name: &str| Pattern(pattern.to_owned()).matches(name);
    for (pattern, name) in [
        ("*", ""),
        ("*", "abc"),
        ("a*c", "ac"),
        ("a*c", "abcbc"),
        ("*b*", "abc"),
        ("a**", "a"),
        ("*.*.c", "a.b.c"),
    ] {
        assert!(matches(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [
        ("a", "b"),
        ("a*c", "ab"),
        ("a", ""),
        ("*b", "abc"),
        ("ab*", "a"),
    ] {
        assert!(!matches(pattern, name), "{pattern} {name}");
    }
    // No pattern takes long.
    let start = std::time::Instant::now();
    assert!(!matches(
        &"*a".repeat(120),
        &"a".repeat(64).replace("aa", "ab")
    ));
    assert!(start.elapsed().as_secs() < 5);
}
