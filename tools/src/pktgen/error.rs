//! What can go wrong, for a person to read.

use std::{io, path::PathBuf};

use super::{flow, pace, sizes, span};
use crate::{live, pattern};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The flow cannot be.
    #[error(transparent)]
    Flow(#[from] flow::Error),
    /// Frames cannot be.
    #[error(transparent)]
    Pattern(#[from] pattern::Error),
    /// Sizes.
    #[error(transparent)]
    Sizes(#[from] sizes::Error),
    /// A rate.
    #[error(transparent)]
    Rate(#[from] pace::Error),
    /// A range.
    #[error(transparent)]
    Span(#[from] span::Error),
    /// The generator of live frames.
    #[error("live frames: {0}")]
    Live(#[from] live::Error),
    /// AF_XDP.
    #[error(transparent)]
    Xdp(#[from] afnet_dataplane::Error),
    /// libbpf.
    #[error("{what}: {source}")]
    Bpf {
        /// What was tried.
        what: String,
        /// Its answer.
        source: libbpf_rs::Error,
    },
    /// A system call.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the object's name.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No such interface.
    #[error(
        "no interface {0} in {1}; `ip link` lists them, and DEVICE@NAMESPACE names one of another namespace"
    )]
    NoDevice(String, String),
    /// The operator's own connection may depend on it.
    #[error(
        "{0} carries the default route: a flood there may cut this machine off. Use another interface, or --force \
         if you mean it"
    )]
    DefaultRoute(String),
    /// Nobody knows where to.
    #[error(
        "the kernel finds no MAC address of {0} on {1}: give one with --dst-mac, or the receiving device"
    )]
    NoNeighbour(std::net::IpAddr, String),
    /// A capture.
    #[error("{}: {what}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The arguments do not go together.
    #[error("{0}")]
    Usage(String),
    /// A thread panicked: a defect of ours.
    #[error("a thread of pktgen ended with a panic; what it counted is lost")]
    Thread,
}

impl Error {
    /// Adds what was tried to a kernel's answer.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Adds what was tried to libbpf's answer.
    pub fn bpf(what: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Self {
        let what = what.into();
        move |source| Self::Bpf { what, source }
    }
}

/// Result of what pktgen does.
pub type Result<T> = std::result::Result<T, Error>;
