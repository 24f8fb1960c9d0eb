//! How many clients there may be: in all, of one user, and with one VM, whose slots are few. A
//! connection counts until it is closed, however long that takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use vmshm_channel::credentials::User;

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most connections.
    pub connections: usize,
    /// Of those, how many only root gets.
    pub for_root: usize,
    /// The most connections of one user.
    pub per_user: usize,
    /// The most sessions with one VM: a guest has 27 slots, and others use them, too.
    pub per_vm: usize,
    /// The most of those that one user has.
    pub per_user_and_vm: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            for_root: 16,
            per_user: 24,
            per_vm: 20,
            per_user_and_vm: 12,
        }
    }
}

/// Who is connected.
#[derive(Debug, Default)]
struct Count {
    users: BTreeMap<u32, usize>,
    sessions: BTreeMap<(u32, u32), usize>,
}

/// Counts connections and sessions.
#[derive(Debug, Clone)]
pub(crate) struct Counter {
    limits: Limits,
    count: Arc<Mutex<Count>>,
}

/// A place that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    counter: Counter,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Connection { uid: u32 },
    Session { pid: u32, uid: u32 },
}

impl Counter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            count: Arc::default(),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Count) -> T) -> T {
        // Nothing that holds the lock can leave the counts half changed.
        work(&mut self.count.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many are connected.
    pub(crate) fn connections(&self) -> usize {
        self.with(|count| count.users.values().sum())
    }

    /// A place for a connection, or why there is none.
    pub(crate) fn connect(&self, user: &User) -> Result<Place, String> {
        let uid = user.uid;
        let limits = self.limits;
        self.with(|count| {
            let all: usize = count.users.values().sum();
            let own = count.users.get(&uid).copied().unwrap_or_default();
            let most = if user.is_root() {
                limits.connections
            } else {
                limits.connections - limits.for_root.min(limits.connections)
            };
            if all >= most {
                return Err(format!("{all} programs are connected, which is the most"));
            }
            if own >= limits.per_user && !user.is_root() {
                return Err(format!(
                    "user {uid} has {own} connections, which is the most"
                ));
            }
            *count.users.entry(uid).or_default() += 1;
            Ok(())
        })?;
        Ok(self.place(Of::Connection { uid }))
    }

    /// A place for a session with the VM in process `pid`, or why there is none.
    pub(crate) fn attach(&self, user: &User, pid: u32) -> Result<Place, String> {
        let uid = user.uid;
        let limits = self.limits;
        self.with(|count| {
            let of_vm = count.sessions.range((pid, 0)..=(pid, u32::MAX));
            let all: usize = of_vm.map(|(_, sessions)| sessions).sum();
            let own = count.sessions.get(&(pid, uid)).copied().unwrap_or_default();
            if all >= limits.per_vm {
                return Err(format!("{all} programs use this VM, which is the most"));
            }
            if own >= limits.per_user_and_vm && !user.is_root() {
                return Err(format!(
                    "user {uid} uses this VM with {own} programs, which is the most"
                ));
            }
            *count.sessions.entry((pid, uid)).or_default() += 1;
            Ok(())
        })?;
        Ok(self.place(Of::Session { pid, uid }))
    }

    fn place(&self, of: Of) -> Place {
        Place {
            counter: self.clone(),
            of,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let of = &self.of;
        self.counter.with(|count| match of {
            Of::Connection { uid } => lower(&mut count.users, uid),
            Of::Session { pid, uid } => lower(&mut count.sessions, &(*pid, *uid)),
        });
    }
}

fn lower<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> User {
        User {
            uid,
            gid: uid,
            groups: Vec::new(),
        }
    }

    #[test]
    fn one_user_cannot_take_all_places_nor_all_users_those_of_root() {
        let counter = Counter::new(Limits {
            connections: 10,
            for_root: 2,
            per_user: 5,
            ..Limits::default()
        });
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..5 {
            places.push(counter.connect(&user(1000)).expect("room"));
        }
        assert!(counter.connect(&user(1000)).is_err());
        for uid in 1001..1004 {
            places.push(counter.connect(&user(uid)).expect("room"));
        }
        assert!(counter.connect(&user(1004)).is_err(), "kept for root");
        let root = [(); 2].map(|()| counter.connect(&user(0)).expect("room"));
        assert!(counter.connect(&user(0)).is_err());
        drop(root);
        places.remove(0);
        assert!(counter.connect(&user(1000)).is_ok());
        drop(places);
        assert_eq!(counter.connections(), 0);
        assert!(
            counter.with(|count| count.users.is_empty()),
            "nothing is left"
        );
    }

    #[test]
    fn a_vms_slots_are_shared_out() {
        let counter = Counter::new(Limits {
            per_vm: 4,
            per_user_and_vm: 3,
            ..Limits::default()
        });
        let one: Vec<Place> = (0..3)
            .filter_map(|_| counter.attach(&user(1), 7).ok())
            .collect();
        assert_eq!(one.len(), 3);
        assert!(counter.attach(&user(1), 7).is_err());
        assert!(counter.attach(&user(1), 8).is_ok(), "another VM");
        let other = counter.attach(&user(2), 7).expect("room");
        assert!(counter.attach(&user(3), 7).is_err());
        drop((one, other));
        assert!(counter.with(|count| count.sessions.is_empty()));
    }
}
