//! afnet's dataplane: pinned workers that move packets between AF_XDP sockets and tenants' rings.
//!
//! ```text
//!  control thread                         worker threads (one for each CPU given)
//!  +-----------+   Command (crossbeam)   +------------------------------------------+
//!  | Dataplane | ----------------------> | queues: UMEM, anchor, RX-only sockets    |
//!  |           | <---------------------- | endpoints: one RX and one TX ring each   |
//!  +-----------+   Event + notify()      | routes, reassembly, counters             |
//!                                        +------------------------------------------+
//! ```
//!
//! | module | what | thread |
//! |---|---|---|
//! | [`config`] | settings and the things control describes: devices, host link, addresses | control |
//! | [`handle`] | [`Dataplane`]: the public API | control |
//! | [`ports`], [`groups`] | claims and group memberships as control makes them | control |
//! | [`route`] | questions to control and its answers | both |
//! | [`counters`] | one table: enum, names, help; snapshots | workers write, control reads |
//! | [`error`], [`event`] | what goes wrong, what control must hear | both |
//! | `reaper` | closes compartments' sockets | its own |
//! | `worker` | the batch loop: rx, tx, delivery, wake policy | worker |
//! | [`xsk`] | AF_XDP: UMEM, frame tokens, sockets | made by control, used by a worker |
//! | [`net`] | packets as the wire has them: parsing, headers, checksums, fragments, route cache | each worker its own |

mod bpf;
pub mod config;
pub mod counters;
pub mod error;
pub mod event;
pub mod groups;
pub mod handle;
pub mod net;
pub mod ports;
mod reaper;
pub mod route;
mod worker;
pub mod xsk;

pub use config::{
    Attachment, Compartment, Config, Device, DirtyMap, EndpointKind, HostLink, ModePreference, ModeReport,
    OwnedAddress, QueueMode, SocketMap, WakeMode,
};
pub use counters::{Counter, Snapshot};
pub use error::Error;
pub use event::{Event, FrameAudit, QueueAudit};
pub use groups::{Group, Local, Sources};
pub use handle::{Dataplane, Notify};
pub use ports::{Families, PortClaim, Scope, Sharing};
pub use route::{Route, RouteKey};
