//! Unmodified programs under the socket shim: servers in a compartment, clients on another machine.
//!
//! Each row of [`table`] is a test: the server is started in the compartment with the shim, the questions are asked until
//! they are answered, and what afnetd says of the endpoints has to fit: datagrams have taken the fast path, or there is a
//! reason why not.

mod client;
mod quic;
mod run;
mod table;
