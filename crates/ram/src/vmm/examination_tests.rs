//! Tests over recorded and made-up states of processes, most of which no test machine has.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::access::Obstacle;
use crate::os::{ProcRoot, current_user};
use crate::vmm::candidate::Candidate;
use crate::vmm::find::tests::play;
use crate::vmm::{Vmm, find_by_pid_in};

const QEMU_MEMFD: &str = include_str!("../../tests/recordings/qemu-memfd.txt");
const QEMU_PRIVATE: &str = include_str!("../../tests/recordings/qemu-private.txt");
const CLOUD_HYPERVISOR: &str = include_str!("../../tests/recordings/cloud-hypervisor.txt");
const FIRECRACKER: &str = include_str!("../../tests/recordings/firecracker.txt");

/// What `code::is_denial` takes for a missing right.
const PERMISSION: i32 = 1;

fn vmm(root: &Path, recording: &str) -> Vmm {
    let pid = play(root, recording);
    find_by_pid_in(&ProcRoot::at(root), pid).expect("it is there")
}

fn examined(recording: &str) -> Examination {
    let directory = tempfile::tempdir().expect("directory");
    vmm(directory.path(), recording).examine()
}

/// The recording with another word on the command line.
fn with_words(recording: &str, words: &str) -> String {
    recording.replacen("\n[exe]", &format!("\n{words}\n[exe]"), 1)
}

fn with_descriptor(recording: &str, target: &str) -> String {
    format!("{}\n99 {target}\n", recording.trim_end())
}

#[test]
fn confidential_memory_is_told_by_options_and_by_open_files() {
    assert_eq!(examined(QEMU_MEMFD).confidential, None);
    for (words, kind) in [
        ("-object\nsev-guest,id=s,cbitpos=47", Confidential::Sev),
        ("-object\nsev-snp-guest,id=s", Confidential::Sev),
        (
            "-object\n{\"qom-type\":\"tdx-guest\",\"id\":\"t\"}",
            Confidential::Tdx,
        ),
        ("-object\ns390-pv-guest,id=p", Confidential::Protected),
        (
            "-machine\nq35,confidential-guest-support=x",
            Confidential::Protected,
        ),
        // The object says more than the property that names it.
        (
            "-machine\nq35,confidential-guest-support=x\n-object\ntdx-guest,id=x",
            Confidential::Tdx,
        ),
    ] {
        let found = examined(&with_words(QEMU_MEMFD, words));
        assert_eq!(found.confidential, Some(kind), "{words}");
    }
    let found = examined(&with_words(QEMU_MEMFD, "-append\n-object tdx-guest"));
    assert_eq!(
        found.confidential, None,
        "the guest's own words say nothing"
    );
    let found = examined(&with_words(CLOUD_HYPERVISOR, "--platform\ntdx=on"));
    assert_eq!(found.confidential, Some(Confidential::Tdx));
    let found = examined(&with_descriptor(QEMU_MEMFD, "anon_inode:[kvm-gmem]"));
    assert_eq!(found.confidential, Some(Confidential::GuestMemfd));
}

#[test]
fn a_filter_of_system_calls_is_told() {
    assert!(!examined(QEMU_PRIVATE).filters_calls);
    assert!(examined(FIRECRACKER).filters_calls);
}

#[test]
fn swap_and_namespaces_are_told() {
    let swapped = QEMU_PRIVATE.replace("TracerPid:", "VmSwap:\t    2048 kB\nTracerPid:");
    assert_eq!(examined(&swapped).swapped, 2 << 20);
    assert_eq!(examined(QEMU_PRIVATE).swapped, 0);

    let directory = tempfile::tempdir().expect("directory");
    let machine = vmm(directory.path(), QEMU_PRIVATE);
    for (pid, user) in [(machine.pid, "user:[2]"), (std::process::id(), "user:[1]")] {
        let namespaces = directory.path().join(pid.to_string()).join("ns");
        fs::create_dir_all(&namespaces).expect("directory");
        symlink(user, namespaces.join("user")).expect("link");
        symlink("mnt:[5]", namespaces.join("mnt")).expect("link");
    }
    assert_eq!(machine.examine().namespaces, [Namespace::User]);
}

/// The recorded process, run by `user`, in a /proc with this setting of Yama.
fn candidate(root: &Path, user: u32, scope: Option<u32>) -> Candidate {
    let owned = QEMU_PRIVATE.replace(
        "Uid:\t0\t0\t0\t0",
        &format!("Uid:\t{user}\t{user}\t{user}\t{user}"),
    );
    let pid = play(root, &owned);
    if let Some(scope) = scope {
        let yama = root.join("sys/kernel/yama");
        fs::create_dir_all(&yama).expect("directory");
        fs::write(yama.join("ptrace_scope"), format!("{scope}\n")).expect("write");
    }
    Candidate::read(&ProcRoot::at(root), pid).expect("it is there")
}

#[test]
fn yama_is_named_as_the_cause_only_where_it_is_one() {
    let own = current_user();
    for scope in 1..=3 {
        let directory = tempfile::tempdir().expect("directory");
        let refused = candidate(directory.path(), own, Some(scope)).copy_refused(PERMISSION);
        assert_eq!(refused, Obstacle::Yama { scope });
        assert!(refused.hint().expect("a remedy").contains("ptrace_scope"));
    }
    let directory = tempfile::tempdir().expect("directory");
    let refused = candidate(directory.path(), own, Some(0)).copy_refused(PERMISSION);
    assert!(!matches!(refused, Obstacle::Yama { .. }));
    // What is no matter of rights is none of its business.
    let directory = tempfile::tempdir().expect("directory");
    let refused = candidate(directory.path(), own, Some(1)).copy_refused(5);
    assert!(matches!(refused, Obstacle::System { code: 5, .. }));
}

#[test]
fn another_user_is_named_and_root_without_rights_is_told_so() {
    let directory = tempfile::tempdir().expect("directory");
    let refused = candidate(directory.path(), 65_534, None).copy_refused(PERMISSION);
    if current_user() == 0 {
        assert_eq!(refused, Obstacle::MissingCapability);
    } else {
        let own = current_user();
        assert_eq!(refused, Obstacle::OtherUser { owner: 65_534, own });
    }
    let closed = Obstacle::FileRefused {
        name: "/dev/shm/ram".to_owned(),
        code: 13,
        mode: Some(0),
        scope: 1,
    };
    assert!(closed.to_string().contains("/dev/shm/ram, mode 0000"));
    assert!(closed.hint().expect("a remedy").contains("ptrace_scope"));
    let named = Obstacle::OtherUser {
        owner: 0,
        own: 4_000_000_001,
    };
    assert_eq!(
        named.to_string(),
        "the process belongs to root (uid 0), and you are uid 4000000001"
    );
}
