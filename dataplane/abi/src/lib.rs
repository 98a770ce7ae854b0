//! What afnetd and a tenant agree on, and nothing else: the layout of the memory they share and the
//! messages of the control socket.
//!
//! | module | contents | used by |
//! |---|---|---|
//! | [`shm`] | `repr(C)` layout of an endpoint's sealed memfd: header, rings, records | ring, dataplane, tenant, shim |
//! | [`vlan`] | the VLAN part of a realm, one `u32` on both sides of every boundary | everyone |
//! | `policy` | what a compartment may do (feature `control`) | control, tenant |
//! | `control` | requests and replies of the control socket (feature `control`) | control, tenant |
//!
//! The crate is `no_std`, has no unsafe code and makes no system call. A change of any layout or message
//! that an older peer would misread raises [`ABI_VERSION`].

#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "control")]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "control")]
pub mod control;
#[cfg(feature = "control")]
pub mod policy;
pub mod shm;
pub mod vlan;

/// Version of the shared-memory layout and of the control messages. Both sides state theirs; a mismatch is
/// refused with an error that names both numbers.
pub const ABI_VERSION: u32 = 1;
