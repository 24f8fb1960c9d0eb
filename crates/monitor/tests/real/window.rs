//! A real window on an X server.
