//! The end of sockets behind claims: the kernel path reports it, and the claim goes.
//!
//! ```text
//! claim:   Proof (socket of the compartment) -> watched by its cookie, descriptor closed here
//! close(): cgroup/sock_release -> ring buffer -> released(): every claim that stands on the socket
//! ```
//!
//! A tenant that closes its socket, binds anew and claims finds the port free at once: reports that are there are read
//! before each claim.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};

use afnet_bpf::Registered;

use super::core::Core;
use super::device::bpf;
use super::endpoint::Place;
use super::proof::Proof;
use crate::error::Refused;

/// Which connections have claims on a socket, by its cookie.
#[derive(Debug, Default)]
pub struct Behind {
    conns: HashMap<u64, Vec<u64>>,
    /// Lost reports that were told of.
    lost: u32,
}

impl Core {
    /// What the kernel path knows of a socket.
    pub(super) fn registered(&self, proof: &Proof) -> Result<Option<Registered>, Refused> {
        match (self.kernel_path.programs(), proof.socket()) {
            (Some(programs), Some(socket)) => programs
                .registered(socket)
                .map_err(|e| bpf("looking at a socket that came with the claim", &e)),
            _ => Ok(None),
        }
    }

    /// Has the end of these sockets reported, and closes their descriptors here.
    pub(super) fn watch_proofs(&mut self, conn: u64, proofs: &mut [Proof]) -> Result<(), Refused> {
        for proof in proofs {
            let (Some(cookie), Some(socket)) = (proof.cookie(), proof.socket()) else { continue };
            if let Some(programs) = self.kernel_path.programs() {
                let watched = programs.watch_release(socket, cookie);
                watched.map_err(|e| bpf("watching a socket that came with the claim", &e))?;
            }
            let conns = self.behind.conns.entry(cookie).or_default();
            if !conns.contains(&conn) {
                conns.push(conn);
            }
            proof.let_go();
        }
        Ok(())
    }

    /// Forgets what a claim of a connection's endpoint stood on.
    pub(super) fn forget_proofs(&mut self, conn: u64, place: Place) {
        let Some(endpoint) = self.endpoints.get_mut(&conn) else { return };
        let gone = endpoint.proofs.remove(&place).unwrap_or_default();
        for cookie in gone.iter().filter_map(Proof::cookie) {
            let Some(endpoint) = self.endpoints.get(&conn) else { return };
            if endpoint.proofs.values().flatten().any(|p| p.cookie() == Some(cookie)) {
                continue;
            }
            self.unfollow_all(conn, cookie);
            if let Some(conns) = self.behind.conns.get_mut(&cookie) {
                conns.retain(|c| *c != conn);
                if conns.is_empty() {
                    self.behind.conns.remove(&cookie);
                }
            }
        }
    }

    /// Reads the reports: claims on sockets that are gone go.
    pub(super) fn released(&mut self) {
        let Some(programs) = self.kernel_path.programs_mut() else { return };
        let mut cookies = Vec::new();
        if let Err(e) = programs.releases().drain(|cookie| cookies.push(cookie)) {
            tracing::error!("reading which sockets were released: {e}");
        }
        let lost = programs.releases_lost();
        if lost != self.behind.lost {
            self.behind.lost = lost;
            tracing::error!(
                "{lost} reports of released sockets were lost: their claims stay until their endpoints end"
            );
        }
        for cookie in cookies {
            // Whatever else happens: of sockets that are gone nothing is kept.
            for conn in self.behind.conns.remove(&cookie).unwrap_or_default() {
                self.socket_gone(conn, cookie);
            }
        }
    }

    /// Drops the claims of a connection's endpoint that stand on the socket.
    fn socket_gone(&mut self, conn: u64, cookie: u64) {
        let Some(endpoint) = self.endpoints.get(&conn) else { return };
        let (id, slot) = (endpoint.id, endpoint.slot);
        let on_it = |(place, proofs): (&Place, &Vec<Proof>)| {
            proofs.iter().any(|p| p.cookie() == Some(cookie)).then_some(*place)
        };
        let places: Vec<_> = endpoint.proofs.iter().filter_map(on_it).collect();
        for place in places {
            let claims = self.registry.get(slot).map(|c| c.claims.of(id)).unwrap_or_default();
            if let Some(claim) = claims.iter().find(|c| (c.first, c.scope) == place)
                && let Err(e) = self.release(slot, claim)
            {
                tracing::error!("port {} of {}, whose socket is closed: {e}", place.0, self.name(slot));
            }
            self.forget_proofs(conn, place);
        }
    }

    /// What the loop is to watch for reports.
    pub(super) fn releases_fd(&mut self) -> Option<RawFd> {
        use std::os::fd::AsFd;
        self.kernel_path.programs_mut().map(|programs| programs.releases().as_fd().as_raw_fd())
    }
}
