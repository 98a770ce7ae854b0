//! A control socket that answers as the test says, with real memory behind it: the test is the worker.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    fs,
    io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    net::IpAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use afnet_abi::{
    ABI_VERSION,
    control::{Address, AddressSpec, AddressState, Answer, EndpointKind, MAX_FDS, Refusal, Reply, Request},
    shm::{MIN_RING_LEN, Record, endpoint_kind, kind},
    vlan::Vlan,
};
use afnet_ring::{Consumer, Layout, Mapping, Producer};
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};

/// An attachment as the daemon has it.
pub struct Served {
    pub rings: Vec<(Producer, Consumer)>,
    pub wake: OwnedFd,
    pub doorbells: Vec<OwnedFd>,
    /// Closed to make the daemon die for this tenant.
    pub stream: UnixStream,
}

/// A request that arrived after attaching, and how many descriptors came with it.
pub type Asked = (Request, usize);

pub struct Fake {
    pub instance: String,
    dir: PathBuf,
    pub served: Receiver<Served>,
    pub asked: Receiver<Asked>,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);
static RUN: AtomicU64 = AtomicU64::new(1);

/// What a test may change.
#[derive(Clone)]
pub struct Config {
    pub workers: usize,
    pub addresses: Vec<IpAddr>,
    /// Refuse this port.
    pub taken: Option<u16>,
}

impl Default for Config {
    fn default() -> Self {
        Self { workers: 1, addresses: vec!["127.0.0.1".parse().unwrap()], taken: None }
    }
}

impl Fake {
    /// A daemon that behaves.
    pub fn start(config: Config) -> Self {
        let mut fake = Self::unused();
        fake.restart(config);
        fake
    }

    /// Only the name.
    fn unused() -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let instance = format!("t{}-{serial}", std::process::id());
        let dir = PathBuf::from(format!("/run/afnet-{instance}"));
        Self { instance, dir, served: channel().1, asked: channel().1 }
    }

    fn listen(&self) -> UnixListener {
        fs::create_dir_all(&self.dir).unwrap();
        let path = self.dir.join("afnetd.sock");
        let _ = fs::remove_file(&path);
        UnixListener::bind(path).unwrap()
    }

    /// Comes back under the same name, as another run.
    pub fn restart(&mut self, config: Config) {
        let (serve, served) = channel();
        let (ask, asked) = channel();
        (self.served, self.asked) = (served, asked);
        let listener = self.listen();
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, serve, ask, config) =
                    (stream.unwrap(), serve.clone(), ask.clone(), config.clone());
                thread::spawn(move || converse(&stream, run, &config, &serve, &ask));
            }
        });
    }

    /// No longer there for anybody new.
    pub fn hide(&self) {
        let _ = fs::remove_file(self.dir.join("afnetd.sock"));
    }

    /// Answers the first connection's requests with these bytes, each with so many descriptors, then closes.
    pub fn scripted(answers: Vec<(Vec<u8>, usize)>) -> Self {
        let fake = Self::unused();
        let listener = fake.listen();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            for (answer, fds) in answers {
                if receive(&stream).is_none() {
                    return;
                }
                let fds: Vec<_> = (0..fds).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
                let _ = send(&stream, &answer, &fds);
            }
        });
        fake
    }

    pub fn attached(&self) -> Served {
        self.served.recv_timeout(Duration::from_secs(5)).expect("nobody attached")
    }

    /// The next request after attaching that is not about addresses.
    pub fn asked(&self) -> Asked {
        loop {
            match self.asked.recv_timeout(Duration::from_secs(5)).expect("nothing was asked") {
                (Request::AddrList { .. }, _) => {}
                asked => return asked,
            }
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn line(reply: &Reply) -> Vec<u8> {
    let mut line = serde_json::to_vec(reply).unwrap();
    line.push(b'\n');
    line
}

pub fn hello(version: u32) -> Vec<u8> {
    line(&Reply::Ok(Answer::Hello { version, instance: "x".to_owned(), run: 1 }))
}

pub fn attached(workers: u32) -> Vec<u8> {
    let len = MIN_RING_LEN as u64;
    line(&Reply::Ok(Answer::Attached {
        endpoint: 1,
        name: "c".to_owned(),
        workers,
        rx_len: len,
        tx_len: len,
        addresses: Vec::new(),
        copied: true,
    }))
}

pub fn refused(code: &str, errno: i32) -> Reply {
    Reply::Error(Refusal { code: code.to_owned(), errno, message: "no".to_owned() })
}

/// One request and its descriptors.
fn receive(stream: &UnixStream) -> Option<(Request, Vec<OwnedFd>)> {
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let n = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = item {
                fds.extend(rights);
            }
        }
        if n.ok()?.bytes == 0 {
            return None;
        }
        line.push(byte[0]);
    }
    Some((serde_json::from_slice(&line).unwrap(), fds))
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let n = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    (&*stream).write_all(&bytes[n..])
}

fn converse(stream: &UnixStream, run: u64, config: &Config, serve: &Sender<Served>, ask: &Sender<Asked>) {
    let addresses = || -> Vec<Address> {
        let address = |ip: &IpAddr| Address {
            spec: AddressSpec {
                address: *ip,
                prefix_len: if ip.is_ipv4() { 24 } else { 64 },
                dev: "lo".to_owned(),
                vlan: Vlan::NONE,
                delegated: false,
                fast_only: false,
                defend: None,
                nodad: false,
            },
            name: "c".to_owned(),
            state: AddressState::Ok,
            rival: None,
        };
        config.addresses.iter().map(address).collect()
    };
    // As the daemon does, it keeps what came as proof.
    let mut proofs = Vec::new();
    while let Some((request, fds)) = receive(stream) {
        let count = fds.len();
        proofs.extend(fds);
        let _ = ask.send((request.clone(), count));
        let reply = match request {
            Request::Hello { .. } => {
                Reply::Ok(Answer::Hello { version: ABI_VERSION, instance: "x".to_owned(), run })
            }
            Request::Attach { kind, rx_len, tx_len, .. } => {
                let length = |len: Option<u64>| len.map_or(MIN_RING_LEN, |n| n.try_into().unwrap());
                let layout = Layout {
                    kind: if kind == EndpointKind::Udp { endpoint_kind::UDP } else { endpoint_kind::RAW },
                    workers: config.workers,
                    rx_len: length(rx_len),
                    tx_len: length(tx_len),
                };
                let (mapping, memfd) = Mapping::create(layout).unwrap();
                let event = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
                let mut fds = vec![memfd, event()];
                fds.extend((0..config.workers).map(|_| event()));
                let reply = Reply::Ok(Answer::Attached {
                    endpoint: 1,
                    name: "c".to_owned(),
                    workers: config.workers.try_into().unwrap(),
                    rx_len: layout.rx_len as u64,
                    tx_len: layout.tx_len as u64,
                    addresses: addresses(),
                    copied: true,
                });
                let served = Served {
                    rings: (0..config.workers).map(|w| mapping.worker_side(w).unwrap()).collect(),
                    wake: fds[1].try_clone().unwrap(),
                    doorbells: fds[2..].iter().map(|fd| fd.try_clone().unwrap()).collect(),
                    stream: stream.try_clone().unwrap(),
                };
                send(stream, &line(&reply), &fds).unwrap();
                let _ = serve.send(served);
                continue;
            }
            Request::AddrList { .. } => Reply::Ok(Answer::Addresses(addresses())),
            Request::Claim { port, .. } if Some(port) == config.taken => {
                proofs.truncate(proofs.len() - count);
                refused("EADDRINUSE", 98)
            }
            // A port of the daemon's choice, where no kernel socket has chosen.
            Request::Claim { port, count, .. } => {
                Reply::Ok(Answer::Claimed { port: if port == 0 { 4242 } else { port }, count })
            }
            Request::Unclaim { .. } => Reply::Ok(Answer::Done),
            other => panic!("a tenant asked {other:?}"),
        };
        if send(stream, &line(&reply), &[]).is_err() {
            return;
        }
    }
}

impl Served {
    /// The daemon dies: the connection closes, nobody serves the rings.
    pub fn die(self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Delivers a datagram from `192.0.2.1:1000` to `127.0.0.1:7` by worker `worker`; rings if due. Whether it rang.
    pub fn deliver(&mut self, worker: usize, payload: &[u8]) -> bool {
        let record = Record {
            kind: kind::DATAGRAM,
            ttl: 60,
            tos: 2,
            local_port: 7,
            remote_port: 1000,
            ifindex: 5,
            timestamp_ns: 99,
            local: mapped([127, 0, 0, 1]),
            remote: mapped([192, 0, 2, 1]),
            ..Record::default()
        };
        self.deliver_record(worker, &record, payload)
    }

    pub fn deliver_record(&mut self, worker: usize, record: &Record, payload: &[u8]) -> bool {
        let rx = &mut self.rings[worker].0;
        let mut room = rx.reserve(payload.len()).expect("rx ring full");
        room.write(0, payload);
        room.commit(record, payload.len());
        let ring = rx.publish();
        if ring {
            rustix::io::write(&self.wake, &1u64.to_ne_bytes()).unwrap();
        }
        ring
    }

    /// Takes what the tenant has sent by `worker`, and wakes it if it waits for room.
    pub fn take(&mut self, worker: usize) -> Vec<(Record, Vec<u8>)> {
        let tx = &mut self.rings[worker].1;
        let mut taken = Vec::new();
        while let Some(item) = tx.peek().unwrap() {
            taken.push((item.record, item.payload.to_vec()));
            item.consume();
        }
        if tx.release() {
            rustix::io::write(&self.wake, &1u64.to_ne_bytes()).unwrap();
        }
        taken
    }
}

pub fn mapped(v4: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(v4).to_ipv6_mapped().octets()
}

/// The first line of a child's output.
pub fn first_line(out: impl io::Read) -> String {
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).unwrap();
    line
}
