//! Finds virtual machines and their RAM on the host, and reads and writes it.
