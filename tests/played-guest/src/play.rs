//! Playing a guest in a process of its own, by orders on standard input: one line each, each answered by one line.

use std::io::BufRead;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::guest::Guest;
use crate::ram::GuestMemory;

/// Plays until the input ends. What the guest says to an order goes to `answer`, and orders that it does not know go to
/// `other` first: nothing means that it is the guest's.
pub fn play<M: GuestMemory>(
    guest: &mut Guest<M>,
    other: &mut dyn FnMut(&str) -> Option<String>,
    answer: &mut dyn FnMut(&str),
) {
    let orders = orders();
    loop {
        guest.step();
        match orders.recv_timeout(Duration::from_millis(1)) {
            Ok(order) => {
                let said = other(&order).unwrap_or_else(|| guest.obey(&order));
                guest.list_if_on();
                answer(&said);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The lines of standard input.
fn orders() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
