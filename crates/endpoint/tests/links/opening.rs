//! What is refused before a link is there.

use vmshm_endpoint::{OpenError, RegionOptions, loopback};
use vmshm_link::control::RefusalCode;

fn host(name: &str) -> RegionOptions<loopback::Loopback<loopback::AtHost>> {
    loopback::pair().0.region(name)
}

fn code<T>(result: Result<T, OpenError>) -> RefusalCode {
    match result.map(drop) {
        Err(OpenError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_that_no_region_can_have_are_refused() {
    for name in ["", ".a", "-a", "a b", "ä", "a/b", "a\0", &"n".repeat(65)] {
        let refused = host(name).size(4096).raw().expect_err("a bad name");
        assert!(matches!(&refused, OpenError::BadName(bad) if bad == name));
        assert!(refused.hint().is_some());
    }
    host(&"n".repeat(64)).size(4096).raw().expect("a good name");
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_what_would() {
    fn said<T>(result: Result<T, OpenError>) -> String {
        match result.map(drop) {
            Err(OpenError::BadSize(text)) => text,
            other => panic!("{other:?}"),
        }
    }
    assert!(said(host("a").size(0).raw()).contains("0 bytes"));
    said(host("a").size(u64::MAX).raw());
    said(host("a").size((1 << 46) + 1).raw());
    said(host("a").size(4096).ring::<u64>());
    said(host("a").size(4096).byte_ring());
    said(host("a").size(4096).stream());
    said(host("a").size(4096).latest::<u64>());
    let text = said(host("a").size(8192).ring::<[u8; 5000]>());
    assert!(text.contains("8192") && text.contains("24"), "{text}");
    said(host("a").size(1 << 20).ring::<()>());
    said(host("a").latest::<()>());
    said(host("a").latest_bytes(0));
    said(host("a").latest_bytes(u64::MAX));
    host("a")
        .size(4097)
        .ring::<u64>()
        .expect("rounded up to two pages");
}

#[test]
fn what_is_not_there_is_made_only_with_a_size() {
    assert_eq!(code(host("a").raw()), RefusalCode::NotFound);
    assert_eq!(code(host("a").ring::<u64>()), RefusalCode::NotFound);
    assert_eq!(code(host("a").stream()), RefusalCode::NotFound);
    assert_eq!(code(host("a").size(1 << 40).raw()), RefusalCode::OverBudget);
    host("a")
        .latest::<u64>()
        .expect("its size follows from the value");
}

#[test]
fn a_second_end_of_a_side_and_other_kinds_are_refused() {
    let (host, guest) = loopback::pair();
    let ring = host.region("a").size(1 << 14).ring::<u64>().expect("opens");
    assert_eq!(code(host.region("a").ring::<u64>()), RefusalCode::Busy);
    assert_eq!(
        code(host.another().region("a").ring::<u64>()),
        RefusalCode::Busy
    );
    assert_eq!(
        code(guest.region("a").ring::<u32>()),
        RefusalCode::WrongKind
    );
    assert_eq!(code(guest.region("a").byte_ring()), RefusalCode::WrongKind);
    assert_eq!(code(guest.region("a").stream()), RefusalCode::WrongKind);
    let theirs = guest
        .region("a")
        .ring::<u64>()
        .expect("the other side's is free");
    assert_eq!(
        code(guest.another().region("a").ring::<u64>()),
        RefusalCode::Busy
    );
    // Half a ring still is one.
    let (sender, receiver) = ring.split();
    drop(sender);
    assert_eq!(code(host.region("a").ring::<u64>()), RefusalCode::Busy);
    drop(receiver);
    let ring = host
        .another()
        .region("a")
        .ring::<u64>()
        .expect("free again");
    ring.close();
    theirs.close();
}
