//! The bench's own clients, on [`LOAD_CPU`] in the peer's namespace: what no third-party tool measures alone.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    measure::MEMCACHED,
    server::{CLOSE, COUNT, ECHO},
};
use crate::{
    batch::Batch,
    report::median,
    sink::{LOAD_CPU, Sink, pin},
};

/// Bytes of each datagram, and of each request over TCP.
const PAYLOAD: usize = 64;
/// Datagrams on their way at once when an echo's rate is measured: enough that the server never waits, too few to fill
/// its socket's buffer.
const WINDOW: usize = 64;
/// Without an answer for so long a datagram counts as lost.
const LOST: Duration = Duration::from_millis(200);
/// Before each measurement: caches, neighbours and branch predictors warm up.
const WARM_UP: Duration = Duration::from_millis(100);

/// Median round trip of one request at a time over one TCP connection, in microseconds.
///
/// # Errors
/// If the connection ends.
pub fn tcp_round_trip(server: Ipv4Addr, time: Duration) -> Result<f64> {
    pin(LOAD_CPU)?;
    let mut stream = TcpStream::connect((server, ECHO)).context("connect to the echo server")?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; PAYLOAD];
    round_trips(time, || {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        Ok(true)
    })
}

/// The same with datagrams.
///
/// # Errors
/// If nothing comes back.
pub fn udp_round_trip(server: Ipv4Addr, time: Duration) -> Result<f64> {
    pin(LOAD_CPU)?;
    let socket = connected(server, ECHO)?;
    let mut buffer = [0; PAYLOAD];
    round_trips(time, || {
        socket.send(&buffer)?;
        match socket.recv(&mut buffer) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
}

/// Median time of `once` in microseconds; those that say `false` do not count.
fn round_trips(time: Duration, mut once: impl FnMut() -> Result<bool>) -> Result<f64> {
    let mut times = Vec::new();
    let start = Instant::now();
    loop {
        let before = Instant::now();
        if before - start >= WARM_UP + time {
            break;
        }
        if once()? && before - start >= WARM_UP {
            times.push(before.elapsed().as_secs_f64() * 1e6);
        }
    }
    ensure!(times.len() > 100, "{} answers only", times.len());
    Ok(median(times))
}

/// Connections per second that one client makes, each accepted and closed by the server, one after the other.
///
/// # Errors
/// If one fails.
pub fn connects(server: Ipv4Addr, time: Duration) -> Result<f64> {
    pin(LOAD_CPU)?;
    let address = SocketAddr::from((server, CLOSE));
    let connect = || -> Result<u64> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        // The server closes first: no ports of ours wait.
        stream.read_to_end(&mut Vec::new())?;
        Ok(1)
    };
    rate(time, || connect().context("connect to the closing server"))
}

/// Datagrams per second that an echo server answers, with [`WINDOW`] of them on their way.
///
/// # Errors
/// If nothing comes back.
pub fn udp_echo(server: Ipv4Addr, time: Duration) -> Result<f64> {
    answers(&connected(server, ECHO)?, Batch::new(WINDOW, PAYLOAD), time)
}

/// Requests per second that memcached answers, with [`WINDOW`] of them on their way.
///
/// # Errors
/// If nothing comes back.
pub fn memcached(server: Ipv4Addr, time: Duration) -> Result<f64> {
    // Frame header: request 0, datagram 0 of 1. A key that is not there costs as much as one that is.
    let request = b"\0\0\0\0\0\x01\0\0get key\r\n";
    answers(&connected(server, MEMCACHED)?, Batch::of(WINDOW, request), time)
}

/// Datagrams per second that are answered.
fn answers(socket: &UdpSocket, mut batch: Batch, time: Duration) -> Result<f64> {
    pin(LOAD_CPU)?;
    let mut on_the_way = 0;
    rate(time, || {
        while on_the_way < WINDOW {
            on_the_way += batch.send(socket, WINDOW - on_the_way).context("send to the echo server")?;
        }
        match batch.receive(socket) {
            Ok(received) => {
                on_the_way = on_the_way.saturating_sub(received);
                Ok(received as u64)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                on_the_way = 0;
                Ok(0)
            }
            Err(error) => Err(error).context("receive from the echo server"),
        }
    })
}

/// What `some` adds up to in a second.
fn rate(time: Duration, mut some: impl FnMut() -> Result<u64>) -> Result<f64> {
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        some()?;
    }
    let (start, mut total) = (Instant::now(), 0);
    while start.elapsed() < time {
        total += some()?;
    }
    ensure!(total > 0, "the server answers nothing");
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// Datagrams per second that reach a server which reads them all, sent as fast as one CPU can.
///
/// # Errors
/// If they cannot be sent, or the server has ended.
pub fn udp_packets(server: Ipv4Addr, time: Duration, counter: &mut Sink) -> Result<f64> {
    pin(LOAD_CPU)?;
    let socket = connected(server, COUNT)?;
    segmented(&socket)?;
    let burst = [0; PAYLOAD * WINDOW];
    let send = |time| -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            // Refused: news of a former datagram.
            match socket.send(&burst) {
                Err(error) if error.kind() != ErrorKind::ConnectionRefused => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    };
    send(WARM_UP)?;
    let (before, start) = (counter.count()?, Instant::now());
    send(time)?;
    let (after, time) = (counter.count()?, start.elapsed());
    ensure!(after > before, "no datagram arrives");
    Ok((after - before) as f64 / time.as_secs_f64())
}

/// Each send is cut into datagrams of [`PAYLOAD`] bytes (UDP_SEGMENT): the sender's own work weighs less.
fn segmented(socket: &UdpSocket) -> Result<()> {
    let size = libc::c_int::try_from(PAYLOAD)?;
    // SAFETY: the option's value lives through the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>())?,
        )
    };
    ensure!(set == 0, "set UDP_SEGMENT: {}", std::io::Error::last_os_error());
    Ok(())
}

fn connected(server: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, port))?;
    socket.set_read_timeout(Some(LOST))?;
    Ok(socket)
}
