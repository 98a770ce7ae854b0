//! The pieces of an [`crate::Endpoint`], for a program that puts them together in its own way: the socket shim keeps
//! its rings in memory that forked processes share, and its waiting is the program's.
//!
//! A [`Session`] is one attachment, with one connection. The connection is the attachment's life: while any process has
//! a descriptor of it, the endpoint and its claims stand.

pub use crate::connection::Connection;
pub use crate::sender::Tx;
pub use crate::session::{Rx, Session};
pub use afnet_abi::control::{Answer, Request};
