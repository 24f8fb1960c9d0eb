//! Compositor, agent, VM and monitor die in turn: the others go on, say what happened, and the picture comes back by itself.
