//! Guest library for applications: regions that the agent hands out, and links over them.
//! It needs no privilege, and starts no process.
