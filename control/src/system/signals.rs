//! SIGTERM and SIGINT as bytes on a socket pair, which the event loop watches like any other descriptor.

use std::io::{self, Read};

use mio::net::UnixStream;
use signal_hook::consts::{SIGINT, SIGTERM};

/// The readable end.
#[derive(Debug)]
pub struct Signals {
    /// To be registered with the poll.
    pub stream: UnixStream,
}

impl Signals {
    /// From now on the two signals no longer end the process.
    pub fn catch() -> io::Result<Self> {
        let (read, write) = std::os::unix::net::UnixStream::pair()?;
        read.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { stream: UnixStream::from_std(read) })
    }

    /// Whether one has come since the last call.
    pub fn received(&mut self) -> bool {
        let mut buffer = [0; 64];
        matches!(self.stream.read(&mut buffer), Ok(n) if n > 0)
    }
}
