//! Tests of telling systems apart, by texts as their kernels hold them and by texts that
//! only speak of them.

use super::*;
use proptest::prelude::*;

const DEBIAN: &[u8] = b"Linux version 6.1.0-35-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.137-1 (2025-05-07)\n\0";
const LOGGED: &[u8] =
    b"Linux version 5.10.0-1 (a@b) (gcc 10) #3 SMP Debian\n[    0.000000] Command line";

fn told(texts: &[&[u8]]) -> Option<String> {
    let mut votes = Votes::default();
    let finders = others::finders();
    for text in texts {
        linux::count(text, &mut votes);
        others::count(&finders, text, &mut votes);
    }
    votes.winner(true).map(|found| found.to_string())
}

#[test]
fn the_image_outweighs_logs() {
    let mut votes = Votes::default();
    for _ in 0..20 {
        linux::count(LOGGED, &mut votes);
    }
    linux::count(DEBIAN, &mut votes);
    let found = votes.winner(true).expect("a banner");
    assert_eq!(found.release, "6.1.0-35-amd64");
    assert_eq!(found.to_string(), "Linux 6.1.0-35-amd64");
    assert!(found.banner.ends_with("(2025-05-07)"));
}

#[test]
fn what_is_not_complete_does_not_count() {
    for text in [
        &b"Linux version %s (%s) (%s) #1 SMP\n\0"[..],
        b"Linux version 6.1.0\n",
        b"Linux version 6.1.0 is out (see) (news) now\n\0",
        b"Linux version 6.1.0 (a@b) (gcc) #x y\n\0",
        b"Linux version ",
        b"Linux version 6.1.0 (a@b) (gcc 12) #1 SM",
        b"OSRELEASE=%s\nBUILD-ID=",
        b"OSRELEASE=6.1.0\nNAME=x",
        b"FreeBSD 14.1-RELEASE is out\n\n",
        b"FreeBSD ports\n\0",
        b"OpenBSD 7.5 (released)\n\0",
        b"NetBSD 10.0 is here #1\n\0",
        b"see 19041.1.amd64fre.vb_release.191206-1406 for more",
        b"SunOS Release %s Version %s %u-bit\n\0",
        b"SeaBIOS (version %s)\n",
    ] {
        assert_eq!(told(&[text]), None, "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn crash_notes_tell_the_release_of_the_kernel_that_runs() {
    let notes = b"VMCOREINFO\0\0OSRELEASE=6.12.9-amd64\nBUILD-ID=00ff\nPAGESIZE=4096\n";
    let told = told(&[LOGGED, notes]);
    assert_eq!(told.as_deref(), Some("Linux 6.12.9-amd64"));
}

#[test]
fn every_system_is_told_by_its_own_text() {
    for (text, system) in [
        (
            &b"FreeBSD 14.1-RELEASE-p3 releng/14.1-n267679-10e31f0946d8 GENERIC\n\0"[..],
            "FreeBSD 14.1-RELEASE-p3",
        ),
        (
            b"OpenBSD 7.5 (GENERIC.MP) #82: Wed Mar 20 15:48:40 MDT 2024\n    deraadt@amd64",
            "OpenBSD 7.5",
        ),
        (
            b"NetBSD 10.0_STABLE (GENERIC) #0: Thu Mar 28 08:33:33 UTC 2024\n\tmkrepro@",
            "NetBSD 10.0_STABLE",
        ),
        (
            b"Darwin Kernel Version 23.1.0: Mon Oct  9 21:27:24 PDT 2023; root:xnu-10002.41.9~6/RELEASE_X86_64\0",
            "Darwin 23.1.0",
        ),
        (
            b"SunOS Release 5.11 Version illumos-5fe8d7a 64-bit\n",
            "SunOS 5.11 Version illumos-5fe8d7a",
        ),
        (
            b"\0\x0019041.1.amd64fre.vb_release.191206-1406\0..ntkrnlmp.pdb\0",
            "Windows 19041",
        ),
        (
            b"SeaBIOS (version 1.16.2-debian-1.16.2-1)\n",
            "no OS (SeaBIOS 1.16.2-debian-1.16.2-1)",
        ),
        (b"E\0D\0K\0 \0I\0I\0\0\0", "no OS (EFI firmware, EDK II)"),
    ] {
        assert_eq!(told(&[text]).as_deref(), Some(system));
    }
}

#[test]
fn firmware_is_no_system_where_there_is_one_or_where_time_ran_out() {
    let firmware = b"SeaBIOS (version 1.16.2)\n";
    assert_eq!(
        told(&[firmware, DEBIAN]).as_deref(),
        Some("Linux 6.1.0-35-amd64")
    );
    let mut votes = Votes::default();
    others::count(&others::finders(), firmware, &mut votes);
    assert!(votes.winner(false).is_none());
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        start in prop::sample::select(vec![
            "Linux version ", "OSRELEASE=", "FreeBSD ", "OpenBSD ", "NetBSD ", "19.amd64fre.",
            "Darwin Kernel Version ", "SunOS Release ", "SeaBIOS (version ",
        ]),
        rest in proptest::collection::vec(any::<u8>(), 0..80),
        words in "[ -~\\n]{0,60}",
    ) {
        let mut bytes = start.as_bytes().to_vec();
        bytes.extend_from_slice(words.as_bytes());
        bytes.extend_from_slice(&rest);
        let _ = told(&[&bytes]);
    }
}
