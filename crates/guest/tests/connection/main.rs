//! The connection to an agent that the test plays: what is granted, what is refused, and
//! how a session ends.

mod links;
mod played;

use std::thread;
use std::time::Duration;

use played::{Caller, Listener, SIZE, reply, sealed, unsealed};
use vmshm_endpoint::Held;
use vmshm_guest::{Agent, Connection, End, OpenError, RegionKind, Role, Wish};
use vmshm_link::control::{EndCause, RefusalCode, Reply, Request};
use vmshm_link::fields::Text;
use vmshm_shm::SharedMemory;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn wish(name: &str, size: u64, timeout: Duration) -> Wish {
    Wish {
        name: name.to_owned(),
        kind: RegionKind::Ring,
        size,
        record: 8,
        role: Role::End,
        timeout,
    }
}

/// An agent, and a program that has connected to it.
fn connected() -> (Listener, Caller, Agent) {
    let listener = Listener::new();
    let (agent, caller) = thread::scope(|scope| {
        let agent = scope.spawn(|| Agent::connect_at(listener.path()).expect("connects"));
        let caller = listener.welcome();
        (agent.join().expect("no panic"), caller)
    });
    (listener, caller, agent)
}

/// Opens `ring` while the test answers.
fn open(
    agent: &Agent,
    caller: &Caller,
    answer: impl FnOnce(&Caller, u64),
) -> Result<Held<Agent>, OpenError> {
    thread::scope(|scope| {
        let held = scope.spawn(|| agent.open(&wish("ring", SIZE, LONG)));
        answer(caller, caller.asked_for("ring"));
        held.join().expect("no panic")
    })
}

fn held(agent: &Agent, caller: &Caller) -> Held<Agent> {
    open(agent, caller, |caller, tag| caller.grant(tag, 5, sealed())).expect("granted")
}

/// Waits until a region is over.
fn over(held: &Held<Agent>) -> End {
    loop {
        if let Err(end) = held.tether.check() {
            return end;
        }
        held.tether.sleep(SHORT);
    }
}

#[test]
fn a_granted_region_is_the_agents_memory_and_is_given_back() {
    let (_listener, caller, agent) = connected();
    let file = sealed();
    let held = open(&agent, &caller, |caller, tag| caller.grant(tag, 5, &file)).expect("granted");
    assert_eq!(held.memory.size(), SIZE);
    held.memory.store_release(4096, 77).expect("inside");
    let mut word = [0; 8];
    rustix::io::pread(&file, &mut word, 4096).expect("read");
    assert_eq!(u64::from_le_bytes(word), 77);
    thread::scope(|scope| {
        scope.spawn(|| agent.close(held.region));
        let (tag, request) = caller.request();
        assert_eq!(request, Request::Close { region: 5 });
        caller.say(tag, &Reply::Done);
    });
    drop((held, agent));
    assert_eq!(caller.datagram(), None);
}

#[test]
fn bells_wake_the_sleeper_and_reach_the_agent() {
    let (_listener, caller, agent) = connected();
    let held = held(&agent, &caller);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| held.tether.sleep(LONG * 60));
        caller.say(0, &Reply::Bell { region: 6 });
        caller.say(0, &Reply::Bell { region: 5 });
        sleeper.join().expect("no panic");
    });
    held.doorbell.as_ref().expect("there").ring(held.region);
    assert_eq!(caller.request().1, Request::Bell { region: 5 });
}

#[test]
fn a_bell_never_waits_for_an_agent_that_does_not_read() {
    let (_listener, caller, agent) = connected();
    let held = held(&agent, &caller);
    let bell = held.doorbell.as_ref().expect("there");
    for _ in 0..100_000 {
        bell.ring(held.region);
    }
    assert_eq!(held.tether.check(), Ok(()));
    assert_eq!(caller.request().1, Request::Bell { region: 5 });
}

#[test]
fn the_reason_of_a_regions_end_is_told() {
    for (cause, expected) in [
        (EndCause::Removed, End::RegionRemoved),
        (EndCause::Damaged, End::RegionDamaged("a hole".to_owned())),
    ] {
        let (_listener, caller, agent) = connected();
        let held = held(&agent, &caller);
        let explanation = Text::new("a hole");
        let ended = Reply::Ended {
            region: 5,
            cause,
            explanation,
        };
        caller.say(0, &ended);
        assert_eq!(over(&held), expected);
    }
}

#[test]
fn files_that_could_kill_this_process_are_refused_and_given_back() {
    let (_listener, caller, agent) = connected();
    let granted = |file: std::os::fd::OwnedFd| {
        open(&agent, &caller, |caller, tag| {
            caller.grant(tag, 5, file);
            let (tag, request) = caller.request();
            assert_eq!(request, Request::Close { region: 5 });
            caller.say(tag, &Reply::Done);
        })
    };
    let error = granted(unsealed()).expect_err("refused");
    assert!(error.to_string().contains("not sealed"), "{error}");
    let pipe = rustix::pipe::pipe().expect("made").0;
    assert!(granted(pipe).is_err());
    let none = open(&agent, &caller, |caller, tag| {
        caller.say(tag, &reply(5, true));
        let (tag, _) = caller.request();
        caller.say(tag, &Reply::Done);
    });
    assert!(none.expect_err("refused").to_string().contains("no file"));
}

/// The next request takes back the one that waits under `tag`.
fn taken_back(caller: &Caller, tag: u64) {
    assert_eq!(caller.request(), (tag, Request::Close { region: 0 }));
}

#[test]
fn a_region_that_no_host_opens_says_so_and_the_question_is_taken_back() {
    let (_listener, caller, agent) = connected();
    let error = thread::scope(|scope| {
        let late = scope.spawn(|| agent.open(&wish("ring", SIZE, SHORT)));
        let tag = caller.asked_for("ring");
        taken_back(&caller, tag);
        caller.say(tag, &Reply::Done);
        late.join().expect("no panic").expect_err("late")
    });
    let text = error.to_string();
    assert!(text.contains("no host program has opened `ring`"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("host")));
    // It is a new question when it is asked again.
    held(&agent, &caller);
}

#[test]
fn a_grant_that_crosses_its_cancelling_counts() {
    let (_listener, caller, agent) = connected();
    let held = thread::scope(|scope| {
        let late = scope.spawn(|| agent.open(&wish("ring", SIZE, SHORT)));
        let tag = caller.asked_for("ring");
        taken_back(&caller, tag);
        caller.grant(tag, 9, sealed());
        let nothing = Reply::Refused {
            code: RefusalCode::NotFound,
            explanation: Text::new("nothing waits"),
        };
        caller.say(tag, &nothing);
        late.join().expect("no panic").expect("granted")
    });
    assert_eq!(held.tether.check(), Ok(()));
    held.doorbell.as_ref().expect("there").ring(held.region);
    assert_eq!(caller.request().1, Request::Bell { region: 9 });
}

#[test]
fn an_agent_that_does_not_answer_is_not_waited_for_and_its_late_grant_given_back() {
    let (_listener, caller, agent) = connected();
    let ask = |name, timeout| agent.open(&wish(name, SIZE, timeout));
    assert!(matches!(ask("ring", SHORT), Err(OpenError::NoHost { .. })));
    assert!(ask("other", SHORT).is_err());
    let tag = caller.asked_for("ring");
    taken_back(&caller, tag);
    taken_back(&caller, caller.asked_for("other"));
    caller.grant(tag, 9, sealed());
    assert_eq!(caller.request().1, Request::Close { region: 9 });
}

#[test]
fn a_region_that_must_exist_is_waited_for() {
    let (_listener, caller, agent) = connected();
    let missing = Reply::Refused {
        code: RefusalCode::NotFound,
        explanation: Text::new("there is no region `ring`"),
    };
    thread::scope(|scope| {
        let waiting = scope.spawn(|| agent.open(&wish("ring", 0, LONG)));
        caller.say(caller.asked_for("ring"), &missing);
        caller.say(caller.asked_for("ring"), &missing);
        caller.grant(caller.asked_for("ring"), 5, sealed());
        assert!(waiting.join().expect("no panic").is_ok());
    });
    // Whoever gives a size and may not make it waits as well, and learns why it was in vain.
    let unmade = Reply::Refused {
        code: RefusalCode::NotFound,
        explanation: Text::new("there is no region `ring`, and user 1000 may not make it"),
    };
    thread::scope(|scope| {
        let waiting = scope.spawn(|| agent.open(&wish("ring", SIZE, LONG)));
        caller.say(caller.asked_for("ring"), &unmade);
        caller.grant(caller.asked_for("ring"), 6, sealed());
        assert!(waiting.join().expect("no panic").is_ok());
    });
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            loop {
                match caller.request() {
                    (tag, Request::Link { .. }) => caller.say(tag, &unmade),
                    (tag, _) => return caller.say(tag, &Reply::Done),
                }
            }
        });
        let error = agent.open(&wish("ring", SIZE, Duration::from_secs(2)));
        let error = error.expect_err("in vain");
        assert!(error.to_string().contains("may not make it"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("makes it")));
        agent.remove("no-more").expect("answered");
        answering.join().expect("no panic");
    });
    let denied = Reply::Refused {
        code: RefusalCode::Denied,
        explanation: Text::new("user 1000 may not have `ring`"),
    };
    let error = open(&agent, &caller, |caller, tag| caller.say(tag, &denied)).expect_err("denied");
    assert_eq!(error.to_string(), "user 1000 may not have `ring`");
}

#[test]
fn odd_names_are_not_even_asked_for() {
    let (_listener, _caller, agent) = connected();
    let long = "x".repeat(65);
    for name in ["", "a b", "a/b", "\n", "ä", ".hidden", &long] {
        let error = agent.open(&wish(name, SIZE, LONG)).expect_err("refused");
        assert!(matches!(error, OpenError::BadName(_)), "{error}");
        assert!(agent.remove(name).is_err());
    }
}

#[test]
fn garbage_ends_the_session_with_the_reason() {
    let unknown = [&[0x77_u8, 0, 0, 0, 0, 0, 0, 0][..], &[0; 16]].concat();
    let impossible = {
        let mut region = vec![0_u8; 64];
        region[0] = 1;
        region
    };
    for garbage in [vec![1], vec![0xff; 64], vec![0; 600], unknown, impossible] {
        let (_listener, caller, agent) = connected();
        let held = held(&agent, &caller);
        caller.bytes(&garbage);
        assert!(matches!(over(&held), End::Link(_)));
        let error = agent.open(&wish("ring", SIZE, LONG)).expect_err("over");
        assert!(matches!(error, OpenError::Ended(End::Link(_))), "{error}");
    }
}

#[test]
fn an_answer_of_another_kind_is_an_error_and_no_more() {
    let (_listener, caller, agent) = connected();
    let strange = open(&agent, &caller, |caller, tag| caller.say(tag, &Reply::Done));
    assert!(matches!(strange, Err(OpenError::Ended(End::Link(_)))));
    // Answers to nothing, and bells and ends of regions that nobody has.
    caller.say(4711, &Reply::Done);
    caller.say(0, &Reply::Bell { region: 99 });
    let held = held(&agent, &caller);
    assert_eq!(held.tether.check(), Ok(()));
}

#[test]
fn the_agents_death_is_told_and_a_new_one_found() {
    let (mut listener, caller, agent) = connected();
    let before = held(&agent, &caller);
    drop(caller);
    assert_eq!(over(&before), End::AgentDied);
    let error = agent.open(&wish("ring", SIZE, LONG)).expect_err("over");
    assert!(matches!(error, OpenError::Ended(End::AgentDied)), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("reconnect")));
    listener.vanish();
    let gone = agent.reconnect(SHORT).expect_err("nobody there");
    assert!(gone.to_string().contains("not running"), "{gone}");
    assert!(
        gone.hint()
            .is_some_and(|hint| hint.contains("vmshm-agent run"))
    );
    let caller = thread::scope(|scope| {
        let reconnected = scope.spawn(|| agent.reconnect(LONG));
        listener.listen();
        let caller = listener.welcome();
        reconnected
            .join()
            .expect("no panic")
            .expect("a new session");
        caller
    });
    agent.reconnect(LONG).expect("nothing to do");
    let after = held(&agent, &caller);
    // What was held before is of the old session, whatever its number.
    agent.close(before.region);
    after.doorbell.as_ref().expect("there").ring(after.region);
    assert_eq!(caller.request().1, Request::Bell { region: 5 });
}

#[test]
fn an_agent_that_says_farewell_has_left() {
    let (_listener, caller, agent) = connected();
    let held = held(&agent, &caller);
    let farewell = Reply::Ended {
        region: 0,
        cause: EndCause::Other(0),
        explanation: Text::new("shut down"),
    };
    caller.say(0, &farewell);
    drop(caller);
    assert_eq!(over(&held), End::AgentLeft);
}

#[test]
fn disconnecting_ends_what_is_held_and_tells_the_agent() {
    let (_listener, caller, agent) = connected();
    let held = held(&agent, &caller);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| over(&held));
        agent.disconnect();
        assert_eq!(waiting.join().expect("no panic"), End::Closed);
    });
    assert_eq!(caller.request().1, Request::Close { region: 5 });
    assert_eq!(caller.datagram(), None);
    // Where everything is over already, this changes nothing.
    agent.close(held.region);
    agent.disconnect();
    assert_eq!(held.tether.check(), Err(End::Closed));
}

#[test]
fn an_agent_of_another_protocol_and_a_missing_one_are_told() {
    let listener = Listener::new();
    thread::scope(|scope| {
        let connecting = scope.spawn(|| Agent::connect_at(listener.path()));
        let caller = listener.accept();
        caller.datagram();
        let refused = Reply::Refused {
            code: RefusalCode::Unsupported,
            explanation: Text::new("the agent speaks 9.0"),
        };
        caller.say(0, &refused);
        let error = connecting.join().expect("no panic").expect_err("refused");
        assert_eq!(error.to_string(), "the agent speaks 9.0");

        let connecting = scope.spawn(|| Agent::connect_at(listener.path()));
        drop(listener.accept());
        let error = connecting.join().expect("no panic").expect_err("hung up");
        assert!(error.to_string().contains("closed"), "{error}");
    });
    thread::scope(|scope| {
        // Its words are not lost although it hangs up before it reads anything.
        let connecting = scope.spawn(|| Agent::connect_at(listener.path()));
        let caller = listener.accept();
        let busy = Reply::Refused {
            code: RefusalCode::Busy,
            explanation: Text::new("too many programs are connected"),
        };
        caller.say(0, &busy);
        drop(caller);
        let error = connecting.join().expect("no panic").expect_err("refused");
        assert!(error.to_string().contains("too many programs"), "{error}");
    });
    let missing = Agent::connect_at(listener.path().with_file_name("none"));
    let error = missing.expect_err("nobody there");
    assert!(error.to_string().contains("not running"), "{error}");
    let long = "x".repeat(500);
    assert!(Agent::connect_at(long).is_err());
}
