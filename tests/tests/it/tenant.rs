//! The tenant library against the daemon: claims, the fast path, and what a restart costs a tenant (nothing but speed).

use std::{net::SocketAddr, time::Duration};

use afnet_tenant::{AttachOptions, Endpoint, Error};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER},
    wait,
};

fn options(daemon: &Afnetd<'_>) -> AttachOptions {
    AttachOptions {
        instance: Some(daemon.instance().into()),
        compartment: Some("a".into()),
        ..AttachOptions::default()
    }
}

/// A bed whose peer knows the compartment's MAC address: resolution is not the subject here.
fn bed(label: &str) -> Bed {
    let bed = Bed::new(label);
    let mac = bed.device_mac().map(|b| format!("{b:02x}")).join(":");
    for address in ["192.0.2.10", "2001:db8::10"] {
        bed.peer.ip(&format!("neigh replace {address} lladdr {mac} dev {PEER} nud permanent"));
    }
    bed
}

/// Attaches and claims a port in the daemon's namespace; the sockets of the claim stay in it.
fn attach(daemon: &Afnetd<'_>, port: u16) -> Result<(Endpoint, u16), Error> {
    daemon.netns().enter(|| {
        let mut endpoint = Endpoint::attach(&options(daemon))?;
        endpoint.set_timeout(Some(Duration::from_secs(10)));
        let port = endpoint.claim(port)?;
        Ok((endpoint, port))
    })
}

/// The peer's kernel sends, the tenant answers, the peer's kernel receives. Whether it took the kernel path.
fn echo(bed: &Bed, endpoint: &mut Endpoint, to: &str, port: u16, payload: &[u8]) -> bool {
    let peer = bed.peer_socket(if to.contains(':') { "2001:db8::100" } else { "192.0.2.100" });
    let to = SocketAddr::new(to.parse().unwrap(), port);
    peer.send_to(payload, to).unwrap();
    let mut by_kernel = None;
    while by_kernel.is_none() {
        assert!(endpoint.wait(Some(Duration::from_secs(10))).unwrap(), "nothing from the peer");
        endpoint
            .recv_batch(1, |sender, datagram| {
                assert_eq!((datagram.local(), datagram.remote()), (to, peer.local_addr().unwrap()));
                assert_eq!(datagram.to_vec(), payload);
                sender.reply(datagram).unwrap();
                by_kernel = Some(datagram.is_from_kernel());
            })
            .unwrap();
    }
    let mut buffer = vec![0; 65_535];
    let (len, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (payload, to));
    by_kernel == Some(true)
}

#[test]
fn a_tenant_outlives_its_daemon() {
    let bed = bed("outlive");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    let (mut endpoint, port) = attach(&daemon, 0).unwrap();
    let run = endpoint.run();
    for to in ["192.0.2.10", "2001:db8::10"] {
        // The last is fragmented both ways.
        for size in [0, 1, 64, 1400, 20_000] {
            assert!(!echo(&bed, &mut endpoint, to, port, &vec![7; size]), "{to}, {size}: not the fast path");
        }
    }
    daemon.kill();
    for to in ["192.0.2.10", "2001:db8::10"] {
        assert!(echo(&bed, &mut endpoint, to, port, b"alone"), "{to}: who was that");
    }
    assert!(!endpoint.is_connected());
    daemon.restart();
    let back = wait::within(wait::PATIENCE, || {
        let _ = endpoint.wait(Some(Duration::from_millis(50))).unwrap();
        endpoint.is_connected().then_some(())
    });
    assert!(back.is_some() && endpoint.run() != run, "not attached again");
    for to in ["192.0.2.10", "2001:db8::10"] {
        assert!(!echo(&bed, &mut endpoint, to, port, b"fast again"), "{to}: not the fast path");
    }
    daemon.stop();
}

#[test]
fn a_port_has_one_owner() {
    let bed = bed("owner");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let (first, port) = attach(&daemon, 0).unwrap();
    // In the kernel's registry, and so for everybody.
    assert!(attach(&daemon, port).unwrap_err().is_in_use());
    // A block has no sockets: here it is the daemon that knows.
    let mut other = Endpoint::attach(&options(&daemon)).unwrap();
    let error = other.claim_block(port, 1).map_or_else(|e| e, |()| panic!("claimed twice"));
    assert!(error.is_in_use() || error.errno() == rustix::io::Errno::ACCESS.raw_os_error(), "{error}");
    // From another namespace there is no proof.
    let error = other.claim(port.wrapping_add(1).max(1024)).unwrap_err();
    assert_eq!(error.errno(), rustix::io::Errno::ACCESS.raw_os_error(), "{error}");
    // Gone with its owner, within a second.
    drop(first);
    let again = wait::within(Duration::from_secs(1), || attach(&daemon, port).ok());
    assert!(again.is_some(), "the port was not given back");
}
