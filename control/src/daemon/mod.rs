//! The daemon.

pub mod args;
