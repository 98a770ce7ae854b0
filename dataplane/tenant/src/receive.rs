//! Receiving, waiting, and sending one at a time.
//!
//! ```text
//!   recv_batch ---- RX rings, round robin ----> visitor
//!        |  now and then, and after sleeping
//!        +--------- one look at the epoll set: kernel sockets, control socket
//!
//!   wait: rings empty? -> spin -> arm -> sleep in the epoll set -> disarm
//! ```

use std::{
    io::ErrorKind,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    io::Errno,
};

use crate::{
    Datagram, Endpoint, Error, Kind, Message, Sender,
    datagram::Bytes,
    endpoint::{CONNECTION, RETRY, WAKE},
    sender::record_of,
};

/// Events taken at once: sockets beyond that number wait for the next look.
const EVENTS: usize = 16;
/// Consumed records after which their room goes back to the worker, at the latest. Much more would let a ring of
/// large datagrams look full, much less costs a fence for each few records.
const RELEASE: u32 = 64;
/// Batches between two looks at the kernel sockets and the control socket when the endpoint never sleeps: a look is a
/// system call, so a tenth of this would be felt; ten times as much would delay the kernel path's datagrams.
const LOOK_EVERY: u32 = 64;
/// Longest sleep of a sender whose kernel socket is full. No event is waited for: this is the exception of an exception.
const KERNEL_FULL: Duration = Duration::from_millis(1);

/// What [`Endpoint::recv`] has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes copied to the buffer.
    pub len: usize,
    /// Bytes of the payload: more than `len` if the buffer was too small, the rest is lost.
    pub full_len: usize,
    /// [`Kind::Datagram`] or [`Kind::Packet`].
    pub kind: Kind,
    /// Address and port of this side; unspecified for a packet.
    pub local: SocketAddr,
    /// Address and port of the other side; unspecified for a packet.
    pub remote: SocketAddr,
    /// TTL or hop limit; 0 if it came through a kernel socket.
    pub ttl: u8,
    /// TOS or traffic class; 0 if it came through a kernel socket.
    pub tos: u8,
    /// When it arrived, nanoseconds of CLOCK_REALTIME; 0: unknown.
    pub timestamp_ns: u64,
}

impl Endpoint {
    /// Shows up to `max` datagrams, packets and ICMP errors to `visit`, in place, and returns how many; 0: nothing
    /// was there. Never blocks. What `visit` sends leaves as one batch.
    ///
    /// The kernel sockets of the claims and the control socket are looked at after every sleep and every 64th call;
    /// [`Self::look`] makes the next call do it.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the daemon broke the rings; the endpoint is not connected then. Its absence alone is no
    /// error here.
    pub fn recv_batch(
        &mut self,
        max: usize,
        mut visit: impl FnMut(&mut Sender, &Datagram<'_>),
    ) -> Result<usize, Error> {
        if self.armed {
            self.disarm();
            self.batches = LOOK_EVERY;
        }
        let mut count = self.recv_rings(max, &mut visit)?;
        self.batches += 1;
        if self.batches > LOOK_EVERY {
            self.check(Some(Duration::ZERO))?;
            if count == 0 && self.connection.is_none() {
                self.try_reconnect();
            }
        }
        if !self.ready.is_empty() {
            count += self.recv_kernel(max - count, &mut visit)?;
        }
        self.sender.flush();
        Ok(count)
    }

    /// Asks for the memory that the next [`Self::recv_batch`] reads: for a thread that serves many endpoints in turn, a
    /// few of them ahead. A hint.
    #[inline]
    pub fn prefetch(&self) {
        self.rx.iter().for_each(|rx| rx.consumer.prefetch());
    }

    /// Makes the next [`Self::recv_batch`] look at the kernel sockets and the control socket too.
    pub fn look(&mut self) {
        self.batches = LOOK_EVERY;
    }

    fn recv_rings(
        &mut self,
        max: usize,
        visit: &mut impl FnMut(&mut Sender, &Datagram<'_>),
    ) -> Result<usize, Error> {
        let mut count = 0;
        let workers = self.rx.len();
        for i in 0..workers {
            let worker = (self.next + i) % workers;
            let rx = &mut self.rx[worker];
            let violation = loop {
                if count == max {
                    break None;
                }
                match rx.consumer.peek() {
                    Ok(Some(item)) => {
                        let bytes = Bytes::Ring(item.payload, worker);
                        visit(&mut self.sender, &Datagram { record: item.record, bytes });
                        item.consume();
                        count += 1;
                        rx.unreleased += 1;
                        if rx.unreleased >= RELEASE {
                            rx.release();
                        }
                    }
                    Ok(None) => {
                        rx.release();
                        break None;
                    }
                    Err(violation) => break Some(violation),
                }
            };
            if let Some(violation) = violation {
                self.rx.clear();
                self.disconnect();
                return Err(Error::Protocol(violation.to_string()));
            }
        }
        if workers > 1 {
            self.next = (self.next + 1) % workers;
        }
        Ok(count)
    }

    /// Reads the kernel sockets that the last look found ready.
    fn recv_kernel(
        &mut self,
        max: usize,
        visit: &mut impl FnMut(&mut Sender, &Datagram<'_>),
    ) -> Result<usize, Error> {
        let mut count = 0;
        while count < max
            && let Some(fd) = self.ready.last()
        {
            let Some(socket) = self.sender.claims.socket(*fd) else {
                self.ready.pop();
                continue;
            };
            match socket.socket.recv_from(&mut self.buffer) {
                Ok((len, remote)) => {
                    let record = record_of(socket.local, remote);
                    visit(&mut self.sender, &Datagram { record, bytes: Bytes::Kernel(&self.buffer[..len]) });
                    count += 1;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.ready.pop();
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    self.ready.pop();
                    return Err(e.into());
                }
            }
        }
        if !self.ready.is_empty() {
            // Perhaps more, perhaps not: the next call looks, and the epoll set knows meanwhile.
            self.ready.clear();
            self.look();
        }
        Ok(count)
    }

    /// One look at the epoll set, for at most `timeout` (`None`: until something happens).
    fn check(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        self.batches = 0;
        let timeout = timeout.map(timespec);
        let mut events = [MaybeUninit::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        self.ready.clear();
        let mut lost = false;
        for event in events.iter() {
            match event.data.u64() {
                WAKE => {}
                CONNECTION => lost = true,
                fd => self.ready.extend(RawFd::try_from(fd)),
            }
        }
        if lost {
            self.disconnect();
        }
        Ok(())
    }

    /// Whether something is there already, as far as can be told without a system call.
    fn pending(&mut self) -> bool {
        !self.ready.is_empty() || self.rx.iter_mut().any(|rx| !rx.consumer.is_empty())
    }

    /// The descriptor to wait on in a program's own `poll` or `epoll`: readable when there may be something to receive
    /// (only while armed, see [`Self::arm`]) or the daemon has gone. It stays the same over a reconnect.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Tells the workers to ring from now on. `true`: something is there already, so receive instead of sleeping; the
    /// endpoint is not armed then. `false`: nothing is there, [`Self::as_fd`] will become readable.
    ///
    /// Receiving disarms. So the loop of a program that waits on several descriptors is: receive until nothing comes,
    /// `arm`, and sleep only if it says `false`.
    pub fn arm(&mut self) -> bool {
        if self.armed {
            self.disarm();
        }
        self.sender.flush();
        self.batches = LOOK_EVERY;
        for rx in &mut self.rx {
            rx.release();
        }
        let asleep = self.ready.is_empty() && self.rx.iter_mut().all(|rx| rx.consumer.sleep());
        self.armed = asleep;
        if !asleep {
            self.rx.iter_mut().for_each(|rx| rx.consumer.wake());
        }
        !asleep
    }

    /// Tells the workers that they need not ring, and takes a ring that was not waited for back.
    pub fn disarm(&mut self) {
        self.rx.iter_mut().for_each(|rx| rx.consumer.wake());
        self.armed = false;
        self.drain();
    }

    /// Empties the wake eventfd.
    fn drain(&mut self) {
        if let Some(wake) = &self.wake {
            // EAGAIN: nobody has rung.
            let _ = rustix::io::read(wake, &mut [0; 8]);
        }
    }

    /// Blocks until there is something to receive, at most for `timeout` (`None`: for ever). `false`: time is up.
    /// Sends what is queued first. Looks at the rings for `AttachOptions::spin` before it sleeps.
    ///
    /// # Errors
    /// [`Error::Disconnected`] if the daemon is gone, shall not be looked for, and no kernel socket is there in its
    /// place.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, Error> {
        let deadline = timeout.map(|t| Instant::now() + t);
        self.sender.flush();
        if self.pending() || self.spin(deadline) {
            return Ok(true);
        }
        loop {
            let gone = self.connection.is_none();
            if gone && !self.options.reconnect && self.sender.claims.sockets().next().is_none() {
                return Err(Error::Disconnected);
            }
            if self.arm() {
                return Ok(true);
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let sleep =
                if gone && self.options.reconnect { Some(left.unwrap_or(RETRY).min(RETRY)) } else { left };
            let result = self.check(sleep);
            self.disarm();
            result?;
            if self.pending() {
                return Ok(true);
            }
            if self.connection.is_none() {
                self.try_reconnect();
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(false);
            }
        }
    }

    /// Looks at the rings for a while; yields in between, since the worker may need this CPU.
    fn spin(&mut self, deadline: Option<Instant>) -> bool {
        if self.options.spin.is_zero() || self.connection.is_none() {
            return false;
        }
        let mut end = Instant::now() + self.options.spin;
        end = deadline.map_or(end, |d| d.min(end));
        while Instant::now() < end {
            if self.pending() {
                return true;
            }
            thread::yield_now();
        }
        false
    }

    /// Receives one datagram or packet into `buffer`; blocks as set.
    ///
    /// # Errors
    /// [`Error::Icmp`]: not a datagram but news about one that was sent. [`Error::WouldBlock`]: nothing there, or time
    /// is up. Else as [`Self::recv_batch`] and [`Self::wait`].
    pub fn recv(&mut self, buffer: &mut [u8]) -> Result<Received, Error> {
        let deadline = self.deadline();
        loop {
            let mut result = None;
            self.recv_batch(1, |_, datagram| {
                result = Some(match datagram.icmp_error() {
                    Some(error) => Err(Error::Icmp(error)),
                    None => Ok(Received {
                        len: datagram.copy_to(buffer),
                        full_len: datagram.len(),
                        kind: datagram.kind(),
                        local: datagram.local(),
                        remote: datagram.remote(),
                        ttl: datagram.ttl(),
                        tos: datagram.tos(),
                        timestamp_ns: datagram.timestamp_ns(),
                    }),
                });
            })?;
            if let Some(result) = result {
                return result;
            }
            if self.nonblocking || !self.wait(left(deadline))? {
                return Err(Error::WouldBlock);
            }
        }
    }

    /// As [`Self::recv`]: bytes copied, and where they came from.
    ///
    /// # Errors
    /// As [`Self::recv`].
    pub fn recv_from(&mut self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        self.recv(buffer).map(|received| (received.len, received.remote))
    }

    /// Sends one datagram at once, from the first claimed port; blocks for room as set.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send_to(&mut self, payload: &[u8], remote: SocketAddr) -> Result<(), Error> {
        self.send(&Message::new(remote, payload))?;
        self.flush();
        Ok(())
    }

    /// Queues a datagram ([`Sender::send`]); blocks for room as set.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send(&mut self, message: &Message<'_>) -> Result<(), Error> {
        self.until_room(|sender| sender.send(message))
    }

    /// Queues a packet ([`Sender::send_packet`]); blocks for room as set.
    ///
    /// # Errors
    /// As [`Sender::send_packet`].
    pub fn send_packet(&mut self, packet: &[u8]) -> Result<(), Error> {
        self.until_room(|sender| sender.send_packet(packet))
    }

    /// Sends what is queued ([`Sender::flush`]).
    pub fn flush(&mut self) {
        self.sender.flush();
    }

    /// The sending half, for batches that never block.
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// Tries to send until there is room, it fails, or time is up.
    fn until_room(&mut self, mut send: impl FnMut(&mut Sender) -> Result<(), Error>) -> Result<(), Error> {
        let mut deadline = None;
        loop {
            if self.connection.is_none() && !self.pending() {
                self.try_reconnect();
            }
            match send(&mut self.sender) {
                Err(Error::WouldBlock) => {}
                other => return other,
            }
            let connected = self.sender.connected;
            let deadline = deadline.get_or_insert_with(|| self.deadline());
            let sleep = if self.nonblocking { Some(Duration::ZERO) } else { left(*deadline) };
            self.wait_room(sleep)?;
            let up = deadline.is_some_and(|d| Instant::now() >= d);
            // The daemon's absence shows itself first as a full ring: the kernel's sockets may still take it.
            if (self.nonblocking || up) && connected == self.sender.connected {
                return Err(Error::WouldBlock);
            }
        }
    }

    /// Sleeps until the worker has made room in the ring that was full, or is gone.
    fn wait_room(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        let (Some((ring, len)), Some(wake), Some(connection)) =
            (self.sender.full.take(), &self.wake, &self.connection)
        else {
            // A kernel socket was full.
            thread::sleep(timeout.unwrap_or(KERNEL_FULL).min(KERNEL_FULL));
            return Ok(());
        };
        let Some(tx) = self.sender.tx.get_mut(ring) else { return Ok(()) };
        if let Some(violation) = tx.producer.violation() {
            self.disconnect();
            return Err(Error::Protocol(violation.to_string()));
        }
        let mut lost = false;
        if tx.producer.sleep(len) {
            let mut fds = [PollFd::new(wake, PollFlags::IN), PollFd::new(connection, PollFlags::RDHUP)];
            let result = poll(&mut fds, timeout.map(timespec).as_ref());
            lost = !fds[1].revents().is_empty();
            tx.producer.wake();
            match result {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if lost {
            self.disconnect();
        }
        // A ring for the RX side may be among them: arming looks before it sleeps.
        self.drain();
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|t| Instant::now() + t)
    }
}

impl crate::session::Rx {
    /// Gives the room of what was consumed back. The worker never sleeps for room in this ring: it drops and counts.
    fn release(&mut self) {
        self.unreleased = 0;
        let _ = self.consumer.release();
    }
}

fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|d| d.saturating_duration_since(Instant::now()))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
