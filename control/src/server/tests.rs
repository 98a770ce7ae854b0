//! The server with an echo service, and peers that behave badly.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use afnet_abi::control::{MAX_FDS, MAX_LINE};

use super::*;

/// Refuses all but `list`; tells what was closed, and turns `monitor` into a flood of events.
struct Echo(mpsc::Sender<u64>);

impl Service for Echo {
    fn request(&mut self, conn: &mut Conn, request: Request) -> Result<Outcome, Refused> {
        match request {
            Request::List {} => Ok(Answer::Compartments(Vec::new()).into()),
            Request::Show { name } => {
                Ok(Outcome { answer: Answer::Cgroup { path: name }, fds: conn.take_fds() })
            }
            Request::Monitor {} => {
                conn.monitor = true;
                Ok(Answer::Done.into())
            }
            _ => Err(Refused::new(Errno::OPNOTSUPP, "no")),
        }
    }

    fn closed(&mut self, conn: u64) {
        let _ = self.0.send(conn);
    }
}

/// A running server; ends with the value.
struct Running {
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    flood: Arc<AtomicBool>,
    closed: mpsc::Receiver<u64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn new(connections: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (stop, flood) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (sender, closed) = mpsc::channel();
        let settings = Settings {
            instance: "t".to_owned(),
            run: 7,
            group: None,
            connections,
            user_connections: connections,
        };
        let mut poll = mio::Poll::new().unwrap();
        let mut server = Server::new(&dir.path().join("s"), poll.registry(), 10, settings).unwrap();
        let (stopped, flooding) = (stop.clone(), flood.clone());
        let thread = std::thread::spawn(move || {
            let mut events = mio::Events::with_capacity(64);
            let mut echo = Echo(sender);
            while !stopped.load(Ordering::Relaxed) {
                let wait = if server.pending() { 0 } else { 5 };
                poll.poll(&mut events, Some(Duration::from_millis(wait))).unwrap();
                for event in &events {
                    server.ready(event.token(), event);
                }
                server.serve(&mut echo);
                if flooding.load(Ordering::Relaxed) {
                    server.broadcast(&Event::Added { name: "x".repeat(4000) });
                }
            }
        });
        Self { dir, stop, flood, closed, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("s")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn hello(&self) -> (UnixStream, BufReader<UnixStream>) {
        let mut stream = self.connect();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        stream.write_all(b"{\"op\":\"hello\",\"version\":1}\n").unwrap();
        assert!(line(&mut reader).contains(r#""run":7"#));
        (stream, reader)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn line(reader: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

#[test]
fn requests_may_come_in_pieces_or_many_at_once() {
    let server = Running::new(10);
    let (mut stream, mut reader) = server.hello();
    for byte in b"{\"op\":\"list\"}\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(line(&mut reader), "{\"ok\":{\"compartments\":[]}}\n");
    stream.write_all("{\"op\":\"list\"}\n".repeat(1000).as_bytes()).unwrap();
    for _ in 0..1000 {
        assert_eq!(line(&mut reader), "{\"ok\":{\"compartments\":[]}}\n");
    }
}

#[test]
fn descriptors_go_both_ways() {
    let server = Running::new(10);
    let (stream, mut reader) = server.hello();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"proof").unwrap();
    wire::send(&stream, b"{\"op\":\"show\",\"name\":\"a\"}\n", &[file.as_fd()]).unwrap();
    let mut fds = Vec::new();
    let n = wire::receive(reader.get_mut(), &mut [0; 4096], &mut fds).unwrap();
    assert!(n > 0 && fds.len() == 1);
    let mut back = std::fs::File::from(fds.remove(0));
    std::io::Seek::rewind(&mut back).unwrap();
    let mut text = String::new();
    back.read_to_string(&mut text).unwrap();
    assert_eq!(text, "proof");
}

#[test]
fn rubbish_closes_only_the_connection_it_came_on() {
    let server = Running::new(100);
    let (mut good, mut good_reader) = server.hello();
    let long = vec![b'x'; MAX_LINE + 10];
    let hello = "{\"op\":\"hello\",\"version\":1}\n";
    let deep = format!("{hello}{}\n", "[".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no hello", b"{\"op\":\"list\"}\n".to_vec(), "EPROTO"),
        ("other version", b"{\"op\":\"hello\",\"version\":999}\n".to_vec(), "EPROTONOSUPPORT"),
        ("not JSON", format!("{hello}\0\u{1}\n").into_bytes(), "EBADMSG"),
        ("not UTF-8", [hello.as_bytes(), b"{\"op\":\"\xff\xfe\"}\n"].concat(), "EBADMSG"),
        ("empty line", format!("{hello}\n").into_bytes(), "EBADMSG"),
        ("unknown request", format!("{hello}{{\"op\":\"x\"}}\n").into_bytes(), "EBADMSG"),
        ("deep", deep.into_bytes(), "EBADMSG"),
        ("too long", [hello.as_bytes(), &long].concat(), "EMSGSIZE"),
        (
            "request after monitor",
            format!("{hello}{{\"op\":\"monitor\"}}\n{{\"op\":\"list\"}}\n").into_bytes(),
            "EPROTO",
        ),
    ];
    for (what, bytes, errno) in cases {
        let mut bad = server.connect();
        // The server may close while we still write.
        let _ = bad.write_all(&bytes);
        let mut text = String::new();
        let _ = BufReader::new(&bad).read_to_string(&mut text);
        assert!(text.trim_end().lines().last().unwrap_or("").contains(errno), "{what}: {text}");
        good.write_all(b"{\"op\":\"list\"}\n").unwrap();
        assert_eq!(line(&mut good_reader), "{\"ok\":{\"compartments\":[]}}\n", "after {what}");
    }
}

#[test]
fn hoarded_descriptors_end_the_connection() {
    let server = Running::new(10);
    let (stream, mut reader) = server.hello();
    let file = std::fs::File::open("/dev/null").unwrap();
    for _ in 0..2 {
        wire::send(&stream, b" ", &[file.as_fd(); MAX_FDS / 2 + 1]).unwrap();
    }
    assert!(line(&mut reader).contains("EMSGSIZE"));
    server.closed.recv_timeout(Duration::from_secs(5)).unwrap();
}

#[test]
fn a_closed_connection_is_told_at_once() {
    let server = Running::new(10);
    let (stream, reader) = server.hello();
    let start = Instant::now();
    drop((stream, reader));
    server.closed.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn a_reader_that_does_not_read_delays_nobody_and_loses_events() {
    let server = Running::new(10);
    let (mut slow, mut slow_reader) = server.hello();
    slow.write_all(b"{\"op\":\"monitor\"}\n").unwrap();
    assert!(line(&mut slow_reader).contains("done"));
    server.flood.store(true, Ordering::Relaxed);
    let (mut good, mut good_reader) = server.hello();
    for _ in 0..2000 {
        good.write_all(b"{\"op\":\"list\"}\n").unwrap();
        assert!(line(&mut good_reader).contains("compartments"));
    }
    let lost = (0..5000).map(|_| line(&mut slow_reader)).find(|l| l.contains("lost"));
    assert!(lost.is_some(), "2000 events of 4 KB fit into no queue");
}

#[test]
fn a_peer_that_sends_without_reading_is_held_back() {
    let server = Running::new(10);
    let (mut pusher, _reader) = server.hello();
    pusher.set_nonblocking(true).unwrap();
    let request = "{\"op\":\"list\"}\n".repeat(1000);
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        sent += pusher.write(request.as_bytes()).unwrap_or(0);
    }
    assert!(sent < 4 << 20, "{sent} bytes were taken although no reply was read");
    server.hello();
}

#[test]
fn connections_are_limited() {
    let server = Running::new(3);
    let held: Vec<_> = (0..3).map(|_| server.hello()).collect();
    let mut reader = BufReader::new(server.connect());
    assert!(line(&mut reader).contains("EUSERS"));
    drop(held);
    server.closed.recv_timeout(Duration::from_secs(5)).unwrap();
    server.hello();
}

#[test]
fn a_second_server_on_the_same_path_is_refused() {
    let server = Running::new(3);
    let poll = mio::Poll::new().unwrap();
    let settings =
        Settings { instance: String::new(), run: 1, group: None, connections: 1, user_connections: 1 };
    let path = server.dir.path().join("s");
    let error = Server::new(&path, poll.registry(), 10, settings).unwrap_err();
    assert_eq!(error.errno, Errno::ADDRINUSE);
    server.hello();
}
