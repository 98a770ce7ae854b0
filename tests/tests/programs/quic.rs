//! QUIC by quinn, both ends: a server and its clients. Each is this program once more, in a process of its own, with
//! what it is to do in `QUIC` (in a benchmark, `examples/quic.rs`, in its arguments):
//!
//! | words | what |
//! |---|---|
//! | `serve PORT DIR` | does what a stream's first byte says; leaves its certificate in DIR |
//! | `ask ADDRESS PORT DIR` | compares what comes back with what it has sent |
//! | `send ADDRESS PORT DIR SECONDS` | one stream to the server; says how many bits of it arrived in a second |
//! | `fetch ADDRESS PORT DIR SECONDS` | the same the other way |

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use tokio::time::timeout;

/// Bytes that go each way.
const SIZE: usize = 4 << 20;
/// Bytes of one call.
const CHUNK: usize = 1 << 16;
/// For the handshake: a server that is not there does not answer, and the client is started anew.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// What a stream is for, by its first byte.
const ECHO: u8 = b'e';
const SINK: u8 = b's';
const SOURCE: u8 = b'f';

/// The program; as a test it is both ends at once, over the loopback.
#[test]
fn program() {
    let what = std::env::var("QUIC").unwrap_or_default();
    let words: Vec<&str> = what.split_whitespace().collect();
    if !words.is_empty() {
        return run(&words);
    }
    let dir = tempfile::tempdir().expect("make a directory");
    let free = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("bind");
    let server = free.local_addr().expect("an address");
    drop(free);
    let both = async {
        tokio::spawn(serve(server.port(), dir.path().to_owned()));
        while !dir.path().join("certificate").exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ask(server, dir.path()).await;
        send(server, dir.path(), Duration::from_millis(50)).await;
        fetch(server, dir.path(), Duration::from_millis(50)).await;
    };
    runtime().block_on(async { timeout(afnet_tests::wait::PATIENCE, both).await.expect("both ends") });
}

/// Does what the words say.
pub fn run(words: &[&str]) {
    match *words {
        ["serve", port, dir] => runtime().block_on(serve(port.parse().expect("a port"), dir.into())),
        [what, ip, port, dir, ref rest @ ..] => {
            let ip: IpAddr = ip.parse().expect("an address");
            let server = SocketAddr::from((ip, port.parse().expect("a port")));
            let time = || Duration::from_secs_f64(rest[0].parse().expect("seconds"));
            match what {
                "ask" => runtime().block_on(ask(server, Path::new(dir))),
                "send" => runtime().block_on(send(server, Path::new(dir), time())),
                "fetch" => runtime().block_on(fetch(server, Path::new(dir), time())),
                _ => panic!("{what}"),
            }
        }
        _ => panic!("{words:?}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn serve(port: u16, dir: PathBuf) {
    let own = rcgen::generate_simple_self_signed(vec!["quic.test".into()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let certificate = CertificateDer::from(own.cert);
    let config =
        ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).expect("a configuration");
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let endpoint = Endpoint::server(config, any).expect("a server");
    // Whole, or not there.
    fs::write(dir.join("half"), &certificate).expect("write the certificate");
    fs::rename(dir.join("half"), dir.join("certificate")).expect("rename the certificate");
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async {
            let Ok(connection) = incoming.await else { return };
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(answer(send, receive));
            }
        });
    }
}

/// Until the stream ends, or the client has gone.
async fn answer(mut send: SendStream, mut receive: RecvStream) {
    let mut what = [0];
    if receive.read_exact(&mut what).await.is_err() {
        return;
    }
    if what == [SOURCE] {
        let data = vec![0; CHUNK];
        while send.write_all(&data).await.is_ok() {}
        return;
    }
    while let Ok(Some(chunk)) = receive.read_chunk(CHUNK, true).await {
        if what == [ECHO] && send.write_chunk(chunk.bytes).await.is_err() {
            return;
        }
    }
    let _ = send.finish();
}

async fn connect(server: SocketAddr, dir: &Path) -> (Endpoint, Connection) {
    let certificate = fs::read(dir.join("certificate")).expect("read the certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate)).expect("a certificate");
    let config = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a configuration");
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = Endpoint::client((any, 0).into()).expect("a client");
    let connecting = endpoint.connect_with(config, server, "quic.test").expect("a connection");
    let connection = timeout(HANDSHAKE, connecting).await.expect("an answer").expect("a handshake");
    (endpoint, connection)
}

async fn disconnect(endpoint: Endpoint, connection: Connection) {
    connection.close(0u32.into(), b"done");
    let _ = timeout(HANDSHAKE, endpoint.wait_idle()).await;
}

async fn ask(server: SocketAddr, dir: &Path) {
    let (endpoint, connection) = connect(server, dir).await;
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let data: Vec<u8> = (0..SIZE).map(|at| (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]).collect();
    let copy = data.clone();
    let sending = tokio::spawn(async move {
        send.write_all(&[ECHO]).await.expect("send");
        send.write_all(&copy).await.expect("send");
        send.finish().expect("finish");
    });
    let back = receive.read_to_end(SIZE).await.expect("receive");
    sending.await.expect("all is sent");
    assert!(back == data, "other bytes have come back");
    let stats = connection.stats();
    disconnect(endpoint, connection).await;
    println!("{SIZE} bytes went there and back, {} packets lost", stats.path.lost_packets);
}

async fn send(server: SocketAddr, dir: &Path, time: Duration) {
    let (endpoint, connection) = connect(server, dir).await;
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&[SINK]).await.expect("send");
    let (start, data) = (Instant::now(), vec![0; CHUNK]);
    let mut bytes = 0;
    while start.elapsed() < time {
        send.write_all(&data).await.expect("send");
        bytes += CHUNK;
    }
    send.finish().expect("finish");
    // The server ends its half when it has read all of ours.
    let rest = receive.read_to_end(0).await.expect("the server's end");
    assert!(rest.is_empty());
    rate(bytes, start);
    disconnect(endpoint, connection).await;
}

async fn fetch(server: SocketAddr, dir: &Path, time: Duration) {
    let (endpoint, connection) = connect(server, dir).await;
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&[SOURCE]).await.expect("send");
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < time {
        let chunk = receive.read_chunk(CHUNK, true).await.expect("receive").expect("more of it");
        bytes += chunk.bytes.len();
    }
    rate(bytes, start);
    disconnect(endpoint, connection).await;
}

fn rate(bytes: usize, start: Instant) {
    println!("bits per second: {:.0}", bytes as f64 * 8.0 / start.elapsed().as_secs_f64());
}
