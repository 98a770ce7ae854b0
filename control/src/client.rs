//! The other end of the control socket, for `afnet`: one request at a time, blocking.
//!
//! (Tenants use the crate `afnet-tenant`, which needs none of this crate.)

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use afnet_abi::ABI_VERSION;
use afnet_abi::control::{Answer, Event, Refusal, Reply, Request};

use crate::names::Instance;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach afnetd at {path}: {error}{hint}")]
    Connect {
        /// The socket.
        path: String,
        /// What the kernel answered.
        error: std::io::Error,
        /// What to do.
        hint: String,
    },
    /// The connection broke.
    #[error("lost the connection to afnetd: {0}")]
    Lost(String),
    /// The daemon refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon of an instance and greets it.
    pub fn connect(instance: &Instance) -> Result<Self, ClientError> {
        let path = instance.socket();
        let stream = UnixStream::connect(&path).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    format!(
                        " (no afnetd runs as instance {:?}; another one: --instance NAME)",
                        instance.name()
                    )
                }
                _ => String::new(),
            };
            ClientError::Connect { path: path.display().to_string(), error, hint }
        })?;
        let mut client = Self { stream: BufReader::new(stream) };
        client.request(&Request::Hello { version: ABI_VERSION })?;
        Ok(client)
    }

    /// Sends a request and waits for its reply.
    pub fn request(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let lost = |e: &dyn std::fmt::Display| ClientError::Lost(e.to_string());
        let mut line = serde_json::to_vec(request).map_err(|e| lost(&e))?;
        line.push(b'\n');
        // The daemon may have refused and closed already; its reply says why.
        let sent = self.stream.get_mut().write_all(&line);
        let reply = self.line()?;
        if reply.is_empty() {
            return Err(match sent {
                Err(e) => lost(&e),
                Ok(()) => lost(&"afnetd closed it"),
            });
        }
        match serde_json::from_str(&reply).map_err(|e| lost(&format!("a reply that is none: {e}")))? {
            Reply::Ok(answer) => Ok(answer),
            Reply::Error(refusal) => Err(ClientError::Refused(refusal)),
        }
    }

    /// Bounds the wait for what comes next.
    pub fn set_timeout(&self, time: std::time::Duration) -> std::io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(time))
    }

    /// The next event after [`Request::Monitor`]; `None` at the end.
    pub fn event(&mut self) -> Result<Option<Event>, ClientError> {
        let line = self.line()?;
        if line.is_empty() {
            return Ok(None);
        }
        let event = serde_json::from_str(&line);
        event.map(Some).map_err(|e| ClientError::Lost(format!("an event that is none: {e}")))
    }

    fn line(&mut self) -> Result<String, ClientError> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|e| ClientError::Lost(e.to_string()))?;
        Ok(line)
    }
}
