//! The server that is measured: a child process (`bench serve`), pinned to [`SINK_CPU`], an ordinary program that
//! binds wildcard addresses.
//!
//! | port | what |
//! |---|---|
//! | [`ECHO`], TCP | sends back what it receives, one thread for each connection |
//! | [`ECHO`], UDP | sends back each datagram to its sender |
//! | [`CLOSE`], TCP | accepts and closes |
//! | [`COUNT`], UDP | counts datagrams; the parent asks for the number as of a [`Sink`](crate::sink::Sink) |

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    batch::Batch,
    sink::{SINK_CPU, answer, pin},
};

/// Echo, TCP and UDP.
pub const ECHO: u16 = 7007;
/// Accept and close.
pub const CLOSE: u16 = 7008;
/// Count datagrams.
pub const COUNT: u16 = 7009;

/// Datagrams counted with one system call.
const BATCH: usize = 64;

/// Serves until standard input ends.
///
/// # Errors
/// If a port is taken.
pub fn serve() -> Result<()> {
    let tcp = |port| {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("bind TCP port {port}"))
    };
    let udp = |port| {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("bind UDP port {port}"))
    };
    let (echo, close, datagrams, counted) = (tcp(ECHO)?, tcp(CLOSE)?, udp(ECHO)?, udp(COUNT)?);
    pin(SINK_CPU)?;
    // Threads are made from here on and inherit the CPU.
    thread::spawn(move || {
        for stream in echo.incoming().flatten() {
            thread::spawn(move || echo_stream(stream));
        }
    });
    thread::spawn(move || close.incoming().for_each(drop));
    thread::spawn(move || echo_datagrams(&datagrams));
    let count = Arc::new(AtomicU64::new(0));
    answer(Arc::clone(&count));
    let mut batch = Batch::new(BATCH, 0);
    loop {
        let received = batch.receive(&counted)?;
        // One writer: a plain addition is enough.
        count.store(count.load(Ordering::Relaxed) + received as u64, Ordering::Relaxed);
    }
}

/// Until the peer ends.
fn echo_stream(mut stream: TcpStream) {
    let mut buffer = vec![0; 65_536];
    // Fails on no TCP socket; without it answers are only later.
    let _ = stream.set_nodelay(true);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) if stream.write_all(&buffer[..len]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        // Errors are news of former datagrams (ECONNREFUSED), or of signals.
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    }
}
