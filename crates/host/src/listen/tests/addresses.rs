//! Where is listened at: every kind of address, and those that cannot be had.

use super::*;

#[test]
fn agents_are_tied_over_ipv6_too() {
    let guest = guest(7, "one");
    match listening_at("[::1]:0", std::slice::from_ref(&guest), LONG) {
        Ok(mut host) => {
            let _talk = host.tie(&guest);
            assert_eq!(host.news(), "tied one at 0xe00000");
        }
        // Some containers have no IPv6 at all.
        Err(ListenError::Bind { source, .. }) => eprintln!("skipped: no IPv6 here: {source}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn addresses_that_cannot_be_listened_at_are_named() {
    let host = listening(&[], LONG);
    let taken = host.listener.addresses()[0].to_string();
    let lookout = || Box::new(Nowhere);
    let error = Listener::bind(&taken, LONG, lookout())
        .err()
        .expect("refused");
    assert!(error.to_string().contains(&taken) && error.hint().is_some());
    for text in ["7001", "nowhere.invalid:1", "127.0.0.1:x"] {
        let error = Listener::bind(text, LONG, lookout())
            .err()
            .expect("refused");
        assert!(error.to_string().contains(text), "{error}");
    }
    let local = Listener::bind("tcp:localhost:0", LONG, lookout()).expect("binds");
    let Address::Tcp(address) = local.addresses()[0];
    assert!(address.ip().is_loopback());
}
