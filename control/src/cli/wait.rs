//! Addresses that were given and are not usable yet: waits until it is known whether other hosts have them.
//!
//! A second connection, opened before the first address is given, is the stream of events. So a batch gives all of its
//! addresses first and waits once: they are probed side by side.

use std::time::{Duration, Instant};

use afnet_abi::control::{Address, AddressSpec, AddressState, Answer, Event, Request};

use super::CliError;
use crate::client::{Client, ClientError};
use crate::names::Instance;

/// Exit status: another host has the address.
pub const DUPLICATE: u8 = 3;
/// Exit status: it is not known (yet).
pub const UNKNOWN: u8 = 4;

/// What is waited for.
#[derive(Debug)]
pub struct Awaited<'a> {
    instance: &'a Instance,
    events: Option<Client>,
    tentative: Vec<Address>,
    until: Option<Instant>,
    /// The first that is not usable: status and sentence.
    failed: Option<(u8, String)>,
}

impl<'a> Awaited<'a> {
    /// Nothing yet.
    pub fn new(instance: &'a Instance) -> Self {
        Self { instance, events: None, tentative: Vec::new(), until: None, failed: None }
    }

    /// An address is about to be given: events count from here.
    pub fn prepare(&mut self) -> Result<(), ClientError> {
        if self.events.is_none() {
            let mut client = Client::connect(self.instance)?;
            client.request(&Request::Monitor {})?;
            self.events = Some(client);
        }
        Ok(())
    }

    /// It was given, and the answer says in which state.
    pub fn add(&mut self, address: &Address, patience: Duration) {
        if self.settle(address) {
            self.tentative.push(address.clone());
            self.until = self.until.max(Some(Instant::now() + patience));
        }
    }

    /// Takes note of a state; `true`: it is open still.
    fn settle(&mut self, address: &Address) -> bool {
        if address.state == AddressState::Duplicate {
            let who = address.rival.as_ref().map_or_else(String::new, |mac| format!(" ({mac})"));
            let text = format!("another host{who} has {}: it is not used", address.spec.address);
            self.failed.get_or_insert((DUPLICATE, text));
        }
        address.state == AddressState::Tentative
    }

    /// Waits for all of them.
    pub fn finish(mut self) -> Result<(), CliError> {
        let Some(mut events) = self.events.take() else { return Ok(()) };
        while !self.tentative.is_empty() {
            let left = self.until.unwrap_or_else(Instant::now).saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            events.set_timeout(left).map_err(|e| CliError::Io(e.to_string()))?;
            match events.event() {
                Ok(Some(Event::Address(address))) => self.changed(&address),
                Ok(Some(Event::AddressDeleted(gone))) => {
                    let before = self.tentative.len();
                    self.tentative.retain(|a| !same(&a.spec, &gone.spec));
                    if self.tentative.len() < before {
                        let text = format!("{} was taken away again", gone.spec.address);
                        self.failed.get_or_insert((UNKNOWN, text));
                    }
                }
                Ok(Some(Event::Lost { .. })) => self.look()?,
                Ok(Some(_)) => {}
                Ok(None) => return Err(ClientError::Lost("afnetd has ended".to_owned()).into()),
                Err(_) if Instant::now() >= self.until.unwrap_or_else(Instant::now) => break,
                Err(e) => return Err(e.into()),
            }
        }
        if let Some(address) = self.tentative.first() {
            let text = format!(
                "{} is tentative still (is the link of {} up?): `afnet addr list` will tell",
                address.spec.address, address.spec.dev
            );
            self.failed.get_or_insert((UNKNOWN, text));
        }
        match self.failed {
            None => Ok(()),
            Some((status, text)) => Err(CliError::Exec(status, text)),
        }
    }

    fn changed(&mut self, address: &Address) {
        let before = self.tentative.len();
        if address.state != AddressState::Tentative {
            self.tentative.retain(|a| !same(&a.spec, &address.spec));
        }
        if self.tentative.len() < before {
            self.settle(address);
        }
    }

    /// Events were lost.
    fn look(&mut self) -> Result<(), CliError> {
        let list = Request::AddrList { name: None, dev: None, vlan: None, family: None };
        if let Answer::Addresses(all) = Client::connect(self.instance)?.request(&list)? {
            all.iter().for_each(|address| self.changed(address));
        }
        Ok(())
    }
}

/// Whether it is the same address in the same realm.
fn same(a: &AddressSpec, b: &AddressSpec) -> bool {
    (a.address, &a.dev, a.vlan, a.delegated) == (b.address, &b.dev, b.vlan, b.delegated)
}
