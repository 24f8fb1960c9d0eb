//! Tests against real virtual machines.
