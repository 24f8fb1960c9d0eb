//! What a listener leaves is found by others, and nothing else is.

use super::*;

fn own_tie(beacon: u64) -> Tie {
    let pid = std::process::id();
    Tie {
        pid,
        start_time: start_time(u64::from(pid)).expect("we run"),
        beacon: GuestPhysical(beacon),
    }
}

#[test]
fn what_a_listener_writes_is_found_until_it_ends() {
    let home = tempfile::tempdir().expect("a directory");
    let places = [home.path().join("vmshm")];
    let record = Record::open_in(&places).expect("opens");
    let (pid, tie) = (std::process::id(), own_tie(0x1_4020_0000));
    assert_eq!(beacon_in(&places, pid), None);
    record.write(&[tie]).expect("written");
    assert_eq!(beacon_in(&places, pid), Some(tie.beacon));
    assert!(is_ours_alone(&places[0]));
    let stranger = Tie {
        start_time: tie.start_time + 1,
        ..tie
    };
    record.write(&[stranger]).expect("written");
    assert_eq!(
        beacon_in(&places, pid),
        None,
        "another process had that pid"
    );
    record.write(&[tie]).expect("written");
    drop(record);
    assert_eq!(beacon_in(&places, pid), None);
    assert_eq!(fs::read_dir(&places[0]).expect("listed").count(), 0);
}

#[cfg(unix)]
#[test]
fn a_directory_that_others_may_enter_is_neither_written_nor_read() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let home = tempfile::tempdir().expect("a directory");
    let open = home.path().join("open");
    let link = home.path().join("link");
    let good = home.path().join("good");
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    std::os::unix::fs::symlink(&good, &link).expect("linked");
    let places = [open.clone(), link.clone(), good.clone()];
    let record = Record::open_in(&places).expect("the last one will do");
    assert!(record.path.starts_with(&good));
    record.write(&[own_tie(0x20_0000)]).expect("written");
    let modes = [&record.path, &good].map(|path| fs::metadata(path).expect("there").mode());
    assert_eq!(modes.map(|mode| mode & 0o777), [0o600, 0o700]);
    let pid = std::process::id();
    assert!(beacon_in(std::slice::from_ref(&good), pid).is_some());
    assert_eq!(beacon_in(&[link], pid), None, "a link leads to it");
    fs::copy(
        &record.path,
        open.join(record.path.file_name().expect("named")),
    )
    .expect("copied");
    assert_eq!(beacon_in(std::slice::from_ref(&open), pid), None);
    let error = Record::open_in(&[open]).expect_err("refused").to_string();
    assert!(error.contains("open"), "{error}");
}

#[test]
fn odd_files_and_dead_listeners_tell_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let places = [home.path().join("vmshm")];
    let record = Record::open_in(&places).expect("opens");
    let tie = own_tie(0x20_0000);
    let own = format!("{} {} {}\n", tie.pid, tie.start_time, tie.beacon);
    let listener = format!("{MARK} {} {}", tie.pid, tie.start_time);
    let dead = format!("{MARK} {} {}", tie.pid, tie.start_time + 1);
    for text in [
        String::new(),
        own.clone(),
        format!("{dead}\n{own}"),
        format!("{listener}\n{} {}\n", tie.pid, tie.start_time),
        format!("{listener}\n{} {} 0xzz\n", tie.pid, tie.start_time),
        format!("{MARK}\n{own}"),
        "\u{0}\n".repeat(1 << 17),
    ] {
        fs::write(&record.path, &text).expect("written");
        assert_eq!(beacon_in(&places, tie.pid), None, "{text:.80}");
    }
    fs::write(&record.path, format!("{listener}\nodd\n{own}")).expect("written");
    assert_eq!(beacon_in(&places, tie.pid), Some(tie.beacon));
    fs::write(&record.path, [0xff, 0xfe, b'\n']).expect("written");
    assert_eq!(beacon_in(&places, tie.pid), None);
}
