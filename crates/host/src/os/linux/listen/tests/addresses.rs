//! Where is listened at: every kind of address, and those that cannot be had.

use super::*;
use crate::listen::address::ANY_MACHINE;

#[test]
fn agents_are_tied_over_ipv6_too() {
    let guest = guest(7, "one");
    match listening_at(&["[::1]:0"], std::slice::from_ref(&guest), LONG) {
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
    let error = Listener::bind(&[&taken], LONG, lookout())
        .err()
        .expect("refused");
    assert!(error.to_string().contains(&taken) && error.hint().is_some());
    for text in [
        "7001",
        "nowhere.invalid:1",
        "127.0.0.1:x",
        "vsock:x",
        "serial:",
        "serial:/no/such/line",
        "serial:/dev/null",
        "serial:/tmp",
    ] {
        let error = Listener::bind(&[text], LONG, lookout())
            .err()
            .expect("refused");
        let named = text.strip_prefix("serial:/").unwrap_or(text);
        assert!(error.to_string().contains(named), "{error}");
    }
    let local = Listener::bind(&["tcp:localhost:0"], LONG, lookout()).expect("binds");
    let is_loopback = |address: &Address| match address {
        Address::Tcp(address) => address.ip().is_loopback(),
        _ => false,
    };
    assert!(local.addresses().iter().all(is_loopback));
}

#[test]
fn vsock_is_listened_at_where_the_kernel_has_it() {
    match listening_at(&["vsock:0"], &[], LONG) {
        Ok(host) => {
            let [Address::Vsock { cid, port }] = host.listener.addresses()[..] else {
                panic!("one address of vsock");
            };
            assert!(cid == ANY_MACHINE && port != 0 && port != ANY_MACHINE);
            let shown = host.listener.addresses()[0].to_string();
            assert_eq!(shown, format!("vsock:{port}"));
            let error = listening_at(&[&shown], &[], LONG)
                .err()
                .expect("it is taken");
            assert!(error.to_string().contains(&shown), "{error}");
        }
        Err(error) => {
            assert!(error.hint().is_some_and(|hint| hint.contains("vsock")));
            eprintln!("skipped: no vsock here: {error}");
        }
    }
}

#[test]
fn an_agent_is_tied_over_vsock() {
    let guest = guest(7, "one");
    let Ok(mut host) = listening_at(&["vsock:0"], std::slice::from_ref(&guest), LONG) else {
        eprintln!("skipped: no vsock here");
        return;
    };
    let [Address::Vsock { port, .. }] = host.listener.addresses()[..] else {
        panic!("one address of vsock");
    };
    // This machine's number for itself, if its kernel passes that on.
    let socket = socket2::Socket::new(socket2::Domain::VSOCK, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let to = socket2::SockAddr::vsock(1, port);
    if let Err(error) = socket.connect_timeout(&to, Duration::from_secs(3)) {
        eprintln!("skipped: vsock does not lead back here (vsock_loopback): {error}");
        return;
    }
    socket.set_nonblocking(true).expect("set");
    let mut talk = Talk {
        // Its bytes only; nothing of TCP is asked of it.
        socket: TcpStream::from(std::os::fd::OwnedFd::from(socket)),
        inbox: Inbox::default(),
    };
    host.tie_over(&mut talk, &guest);
    assert_eq!(host.news(), "tied one at 0xe00000");
    drop(talk);
    assert!(host.news().starts_with("left one"));
}

#[test]
fn what_a_kernel_lacks_is_named_by_the_kind_of_address() {
    let hint_for = |address| {
        let source = rustix::io::Errno::AFNOSUPPORT.into();
        let hint = ListenError::Bind { address, source }.hint();
        hint.expect("there is one").to_owned()
    };
    let tcp = Address::Tcp("[::1]:7001".parse().expect("an address"));
    assert!(!hint_for(tcp).contains("vsock"));
    let vsock = Address::Vsock { cid: 2, port: 7001 };
    assert!(hint_for(vsock).contains("modprobe"));
}
