//! QUIC by quinn, both ends: a server that sends back what it gets, and a client that compares. Each is this program
//! once more, in a process of its own: `QUIC=serve PORT DIR` or `QUIC=ask ADDRESS PORT DIR` in its environment.

use std::{
    env, fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use afnet_tests::wait::PATIENCE;
use quinn::{
    ClientConfig, Endpoint, ServerConfig,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use tokio::time::timeout;

/// Bytes that go each way.
const SIZE: usize = 4 << 20;
/// For the handshake: a server that is not there does not answer, and the client is started anew.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// The program; as a test it is both ends at once, over the loopback.
#[test]
fn program() {
    let what = env::var("QUIC").unwrap_or_default();
    let words: Vec<&str> = what.split_whitespace().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match words[..] {
        [] => {
            let dir = tempfile::tempdir().expect("make a directory");
            let free = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("bind");
            let server = free.local_addr().expect("an address");
            drop(free);
            let both = async {
                tokio::spawn(serve(server.port(), dir.path().to_owned()));
                while !dir.path().join("certificate").exists() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                ask(server, dir.path()).await;
            };
            runtime.block_on(async { timeout(PATIENCE, both).await.expect("both ends") });
        }
        ["serve", port, dir] => runtime.block_on(serve(port.parse().expect("a port"), dir.into())),
        ["ask", ip, port, dir] => {
            let ip: IpAddr = ip.parse().expect("an address");
            let server = SocketAddr::from((ip, port.parse().expect("a port")));
            runtime.block_on(ask(server, Path::new(dir)));
        }
        _ => panic!("QUIC={what}"),
    }
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
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                while let Ok(Some(chunk)) = receive.read_chunk(1 << 16, true).await {
                    if send.write_chunk(chunk.bytes).await.is_err() {
                        return;
                    }
                }
                let _ = send.finish();
            }
        });
    }
}

async fn ask(server: SocketAddr, dir: &Path) {
    let certificate = fs::read(dir.join("certificate")).expect("read the certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate)).expect("a certificate");
    let config = ClientConfig::with_root_certificates(Arc::new(roots)).expect("a configuration");
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = Endpoint::client((any, 0).into()).expect("a client");
    let connecting = endpoint.connect_with(config, server, "quic.test").expect("a connection");
    let connection = timeout(HANDSHAKE, connecting).await.expect("an answer").expect("a handshake");
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let data: Vec<u8> = (0..SIZE).map(|at| (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]).collect();
    let copy = data.clone();
    let sending = tokio::spawn(async move {
        send.write_all(&copy).await.expect("send");
        send.finish().expect("finish");
    });
    let back = receive.read_to_end(SIZE).await.expect("receive");
    sending.await.expect("all is sent");
    assert!(back == data, "other bytes have come back");
    let stats = connection.stats();
    connection.close(0u32.into(), b"done");
    let _ = timeout(HANDSHAKE, endpoint.wait_idle()).await;
    println!("{SIZE} bytes went there and back, {} packets lost", stats.path.lost_packets);
}
