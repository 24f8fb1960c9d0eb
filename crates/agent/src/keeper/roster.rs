//! Who is the agent, and what the beacon says of it. Pure bookkeeping: no sockets,
//! no memory, no clock.

use vmshm_link::beacon::KeeperState;

/// The number of a connection; never used twice.
pub(crate) type ConnectionId = u64;

/// The agent's connection and process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agent {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its process.
    pub pid: u32,
}

/// The state of the keeper towards agents.
#[derive(Debug)]
pub(crate) struct Roster {
    state: KeeperState,
    agent: Option<Agent>,
    generation: u64,
}

impl Roster {
    /// Nobody has come yet.
    pub(crate) fn new() -> Self {
        Self {
            state: KeeperState::Starting,
            agent: None,
            generation: 0,
        }
    }

    /// What the beacon must say.
    pub(crate) fn state(&self) -> KeeperState {
        self.state
    }

    /// The agent, if one is connected.
    pub(crate) fn agent(&self) -> Option<Agent> {
        self.agent
    }

    /// How many agents have come.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// A connection wants to be the agent's: the generation it becomes, or the agent
    /// that is there already.
    pub(crate) fn admit(&mut self, connection: ConnectionId, pid: u32) -> Result<u64, Agent> {
        match self.agent {
            Some(agent) => Err(agent),
            None => {
                self.agent = Some(Agent { connection, pid });
                self.generation += 1;
                Ok(self.generation)
            }
        }
    }

    /// Whether a connection is the agent's.
    pub(crate) fn is_agent(&self, connection: ConnectionId) -> bool {
        self.agent
            .is_some_and(|agent| agent.connection == connection)
    }

    /// The agent has completed the directory.
    pub(crate) fn serving(&mut self) {
        if self.agent.is_some() {
            self.state = KeeperState::AgentAlive;
        }
    }

    /// The agent leaves in good order, or nothing can be served any more.
    pub(crate) fn withdraw(&mut self) {
        self.state = KeeperState::Withdrawn;
    }

    /// A connection has ended.
    pub(crate) fn gone(&mut self, connection: ConnectionId) {
        if !self.is_agent(connection) {
            return;
        }
        self.agent = None;
        if self.state == KeeperState::AgentAlive {
            self.state = KeeperState::AgentDead;
        }
    }

    /// Whether the keeper is of no more use once no host holds a slot: nothing is
    /// announced and nobody serves. A keeper that waits for its first agent stays.
    pub(crate) fn may_leave(&self) -> bool {
        let idle = match self.state {
            KeeperState::Withdrawn => true,
            KeeperState::Starting => self.generation > 0,
            KeeperState::AgentAlive | KeeperState::AgentDead => false,
        };
        idle && self.agent.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time() {
        let mut roster = Roster::new();
        assert_eq!(roster.admit(1, 100), Ok(1));
        assert_eq!(roster.admit(2, 200).expect_err("fails").pid, 100);
        roster.gone(2);
        assert!(roster.is_agent(1));
        roster.gone(1);
        assert_eq!(roster.admit(3, 300), Ok(2));
    }

    #[test]
    fn a_killed_agent_is_dead_until_the_next_serves() {
        let mut roster = Roster::new();
        roster.admit(1, 100).expect("succeeds");
        assert_eq!(roster.state(), KeeperState::Starting);
        roster.serving();
        assert_eq!(roster.state(), KeeperState::AgentAlive);
        roster.gone(1);
        assert_eq!(roster.state(), KeeperState::AgentDead);
        assert!(!roster.may_leave());
        roster.admit(2, 200).expect("succeeds");
        assert_eq!(roster.state(), KeeperState::AgentDead);
        roster.serving();
        assert_eq!(roster.state(), KeeperState::AgentAlive);
    }

    #[test]
    fn leaves_only_when_withdrawn_and_without_an_agent() {
        let mut roster = Roster::new();
        assert!(!roster.may_leave(), "no agent has come yet");
        roster.admit(1, 100).expect("succeeds");
        roster.serving();
        roster.withdraw();
        assert!(!roster.may_leave(), "the agent is still connected");
        roster.gone(1);
        assert_eq!(roster.state(), KeeperState::Withdrawn);
        assert!(roster.may_leave());
    }

    #[test]
    fn a_new_agent_revives_a_withdrawn_keeper() {
        let mut roster = Roster::new();
        roster.admit(1, 100).expect("succeeds");
        roster.serving();
        roster.withdraw();
        roster.gone(1);
        roster.admit(2, 200).expect("succeeds");
        assert!(!roster.may_leave());
        roster.serving();
        assert_eq!(roster.state(), KeeperState::AgentAlive);
    }

    #[test]
    fn an_agent_that_fails_to_start_leaves_no_keeper_behind() {
        let mut roster = Roster::new();
        roster.admit(1, 100).expect("succeeds");
        roster.gone(1);
        assert!(roster.may_leave());
    }
}
