//! A Python process in a compartment (`scripts/inside.py`), ordered about by a test: its sockets are those of an
//! ordinary program there, and may be taken from it.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::Value;

use crate::{
    afnetd::{Afnetd, binary},
    process::Process,
    wait,
};

const SCRIPT: &str = include_str!("scripts/inside.py");

/// The process.
#[derive(Debug)]
pub struct Inside {
    stream: UnixStream,
    process: Process,
}

impl Inside {
    /// Starts it in a compartment.
    #[track_caller]
    pub fn start(daemon: &Afnetd<'_>, compartment: &str) -> Self {
        let (stream, theirs) = UnixStream::pair().expect("a pair of sockets");
        stream.set_read_timeout(Some(wait::PATIENCE)).expect("set a timeout");
        let mut command = daemon.netns().command(binary("afnet"));
        command.args(["--instance", daemon.instance(), "exec", compartment, "--"]);
        command.args(["/usr/bin/python3", "-c", SCRIPT]).arg(daemon.socket_path());
        let process = Process::spawn_with(&mut command, OwnedFd::from(theirs).into());
        Self { stream, process }
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Has it run an expression or statement of Python and returns the value; an `OSError` is the errno's name.
    #[track_caller]
    pub fn run(&self, code: &str) -> Value {
        self.exchange(code, &[]).0
    }

    /// As [`Self::run`], with sockets that it finds as `given`.
    #[track_caller]
    pub fn run_with(&self, code: &str, sockets: &[BorrowedFd<'_>]) -> Value {
        self.exchange(code, sockets).0
    }

    /// Has it make a socket, and takes a descriptor of it.
    #[track_caller]
    pub fn socket(&self, code: &str) -> OwnedFd {
        let (value, mut fds) = self.exchange(code, &[]);
        fds.pop().unwrap_or_else(|| panic!("{code}: {value}, and no socket"))
    }

    #[track_caller]
    fn exchange(&self, code: &str, sockets: &[BorrowedFd<'_>]) -> (Value, Vec<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(sockets.is_empty() || control.push(SendAncillaryMessage::ScmRights(sockets)));
        let sent = sendmsg(&self.stream, &[IoSlice::new(code.as_bytes())], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(code.len()), "{code}: {}", self.process.output());
        let (mut answer, mut fds) = (Vec::new(), Vec::new());
        while answer.last() != Some(&b'\n') {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut chunk = [0; 4096];
            let mut iov = [IoSliceMut::new(&mut chunk)];
            let message = recvmsg(self.stream.as_fd(), &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC);
            // With a timeout it is not started again after the process was stopped for a moment.
            if matches!(message, Err(Errno::INTR)) {
                continue;
            }
            let bytes = message.unwrap_or_else(|e| panic!("{code}: {e}: {}", self.process.output())).bytes;
            for item in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = item {
                    fds.extend(rights);
                }
            }
            assert!(bytes > 0, "{code}: {}", self.process.output());
            answer.extend_from_slice(&chunk[..bytes]);
        }
        let answer: Value = serde_json::from_slice(&answer).expect("a line of JSON");
        assert!(answer.get("ok").is_some(), "{code}: {answer}");
        (answer["ok"].clone(), fds)
    }
}
