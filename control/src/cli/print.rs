//! Answers and events, as text in the manner of `ip -o` or as JSON.

use std::io::{self, Write};
use std::net::IpAddr;

use afnet_abi::control::{
    Address, AddressState, Answer, Compartment, Counters, Defend, Endpoint, EndpointKind, EndpointState,
    Event, Policy, Realm, Speaker, Status,
};
use afnet_abi::policy::SOCKETS;
use afnet_abi::vlan::Vlan;

/// Prints an answer. JSON is the payload of the answer: a list of objects, or one.
pub fn answer(answer: &Answer, as_json: bool, out: &mut impl Write) -> io::Result<()> {
    match answer {
        Answer::Compartments(all) if as_json => json(all, out),
        Answer::Addresses(all) if as_json => json(all, out),
        Answer::Stats(stats) if as_json => json(stats, out),
        Answer::Endpoints(all) if as_json => json(all, out),
        Answer::Status(status) if as_json => json(status, out),
        Answer::Groups(all) if as_json => json(all, out),
        Answer::Groups(all) => all.iter().try_for_each(|realm| groups(realm, out)),
        Answer::Compartments(all) => compartments(all, out),
        Answer::Addresses(all) => addresses(all, "", out),
        Answer::Stats(stats) => {
            counters("device", &stats.devices, out)?;
            counters("worker", &stats.workers, out)?;
            counters("afnetns", &stats.compartments, out)
        }
        Answer::Endpoints(all) => endpoints(all, out),
        Answer::Status(s) => status(s, out),
        Answer::Cgroup { path } => writeln!(out, "{path}"),
        Answer::Done
        | Answer::Hello { .. }
        | Answer::Entered { .. }
        | Answer::Attached { .. }
        | Answer::Claimed { .. }
        | Answer::Follows { .. } => Ok(()),
    }
}

/// One line of JSON.
pub fn json(value: &impl serde::Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// One line each.
pub fn compartments(all: &[Compartment], out: &mut impl Write) -> io::Result<()> {
    for c in all {
        write!(out, "{} id {} addresses {} endpoints {}", c.name, c.id, c.addresses, c.endpoints)?;
        writeln!(out, "{}", policy(&c.policy))?;
    }
    Ok(())
}

/// What differs from the default, each word after a space.
fn policy(p: &Policy) -> String {
    let mut line = String::new();
    for (value, word) in [(p.rate_pps, "rate"), (p.burst, "burst")] {
        if value > 0 {
            line += &format!(" {word} {value}");
        }
    }
    if p.sockets != SOCKETS {
        line += &format!(" sockets {}", p.sockets);
    }
    for (set, word) in [
        (p.isolated, " isolated"),
        (p.raw_sockets, " raw-sockets"),
        (p.unprivileged_ports, " unprivileged-ports"),
        (p.capabilities, " capabilities"),
    ] {
        if set {
            line += word;
        }
    }
    p.users.iter().for_each(|user| line += &format!(" user {user}"));
    p.groups.iter().for_each(|group| line += &format!(" group {group}"));
    line
}

/// One line each, after `indent`.
pub fn addresses(all: &[Address], indent: &str, out: &mut impl Write) -> io::Result<()> {
    all.iter().try_for_each(|a| writeln!(out, "{indent}{}", address(a)))
}

fn address(a: &Address) -> String {
    let spec = &a.spec;
    let family = if spec.address.is_ipv4() { "inet" } else { "inet6" };
    let mut line = format!("{family} {}/{} dev {}", spec.address, spec.prefix_len, spec.dev);
    if spec.vlan != Vlan::NONE {
        line += &format!(" vlan {}", spec.vlan);
    }
    line += &format!(" afnetns {}", a.name);
    if let Some(policy) = spec.defend {
        line += match policy {
            Defend::GiveUp => " defend a",
            Defend::Once => " defend b",
            Defend::Always => " defend c",
        };
    }
    for (set, word) in [
        (spec.fast_only, " fast-only"),
        (spec.delegated, " delegated"),
        (spec.nodad, " nodad"),
        (a.state == AddressState::Tentative, " tentative"),
        (a.state == AddressState::Duplicate, " duplicate"),
    ] {
        if set {
            line += word;
        }
    }
    if let Some(mac) = &a.rival {
        line += &format!(" of {mac}");
    }
    line
}

fn counters(what: &str, all: &[Counters], out: &mut impl Write) -> io::Result<()> {
    for one in all {
        writeln!(out, "{what} {}", one.name)?;
        for counter in &one.counters {
            writeln!(out, "    {:<28} {:>16}", counter.name, counter.value)?;
        }
    }
    Ok(())
}

fn endpoints(all: &[Endpoint], out: &mut impl Write) -> io::Result<()> {
    for e in all {
        let kind = match e.kind {
            EndpointKind::Udp => "udp",
            EndpointKind::Raw => "raw",
        };
        let state = match e.state {
            EndpointState::Fast => "fast",
            EndpointState::Plain => "plain",
        };
        write!(out, "{}: {kind} afnetns {} pid {}", e.endpoint, e.name, e.pid)?;
        if !e.command.is_empty() {
            write!(out, " command {}", e.command)?;
        }
        write!(out, " state {state} rx {} tx {}", e.rx, e.tx)?;
        for claim in &e.claims {
            write!(out, " port {}", claim.port)?;
            if claim.count > 1 {
                write!(out, "-{}", u32::from(claim.port) + u32::from(claim.count) - 1)?;
            }
            if let Some(address) = claim.address {
                write!(out, "@{address}")?;
            }
            match claim.family {
                Some(4) => write!(out, " inet")?,
                Some(_) => write!(out, " inet6")?,
                None => {}
            }
            if claim.shared {
                write!(out, " shared")?;
            }
        }
        if !e.note.is_empty() {
            write!(out, " note {}", e.note)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn groups(realm: &Realm, out: &mut impl Write) -> io::Result<()> {
    let speaker = match realm.speaker {
        Speaker::Kernel => "kernel",
        Speaker::Afnetd => "afnetd",
    };
    write!(out, "dev {} vlan {} {} version {}", realm.dev, realm.vlan, realm.protocol, realm.version)?;
    write!(out, " speaker {speaker}")?;
    if let Some(querier) = realm.querier {
        write!(out, " querier {querier}")?;
    }
    if let Some(timer) = realm.timer {
        write!(out, " timer {}", seconds(timer))?;
    }
    realm.counters.iter().try_for_each(|c| write!(out, " {} {}", c.name, c.value))?;
    writeln!(out)?;
    for group in &realm.groups {
        let timer = group.timer.map_or_else(String::new, |timer| format!(" timer {}", seconds(timer)));
        writeln!(out, "    {}{}{timer}", group.address, filter(group.exclude, &group.sources))?;
        for member in &group.members {
            let kind = if member.kernel { "" } else { "afnetns " };
            writeln!(out, "        {kind}{}{}", member.name, filter(member.exclude, &member.sources))?;
        }
        if group.kernel && !group.members.iter().any(|member| member.kernel) {
            writeln!(out, "        kernel")?;
        }
    }
    Ok(())
}

fn filter(exclude: bool, sources: &[IpAddr]) -> String {
    let mut text = String::from(if exclude { " exclude" } else { " include" });
    sources.iter().for_each(|source| text += &format!(" {source}"));
    text
}

fn seconds(millis: u32) -> String {
    format!("{}.{:03}s", millis / 1000, millis % 1000)
}

fn status(s: &Status, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "instance {} pid {} wake {}", s.instance, s.pid, s.wake)?;
    for d in &s.devices {
        let (name, index, mac) = (&d.name, d.ifindex, &d.mac);
        writeln!(
            out,
            "device {name} index {index} mac {mac} mtu {} queues {} mode {}",
            d.mtu, d.queues, d.mode
        )?;
        d.refused.iter().try_for_each(|why| writeln!(out, "    refused {why}"))?;
    }
    for (i, cpu) in s.workers.iter().enumerate() {
        match cpu {
            Some(cpu) => writeln!(out, "worker {i} cpu {cpu}")?,
            None => writeln!(out, "worker {i} cpu any")?,
        }
    }
    Ok(())
}

/// One line.
pub fn event(event: &Event, as_json: bool, out: &mut impl Write) -> io::Result<()> {
    if as_json {
        return json(event, out);
    }
    match event {
        Event::Added { name } => writeln!(out, "added {name}"),
        Event::Changed { name, policy: new } => writeln!(out, "changed {name}{}", policy(new)),
        Event::Deleted { name } => writeln!(out, "deleted {name}"),
        Event::Address(a) => writeln!(out, "address {}", address(a)),
        Event::AddressDeleted(a) => writeln!(out, "address deleted {}", address(a)),
        Event::Attached { endpoint, name, pid } => {
            writeln!(out, "attached endpoint {endpoint} afnetns {name} pid {pid}")
        }
        Event::Detached { endpoint, name, reason } => {
            writeln!(out, "detached endpoint {endpoint} afnetns {name}: {reason}")
        }
        Event::Conflict { address, dev, vlan, name, mac } => {
            let vlan = if *vlan == Vlan::NONE { String::new() } else { format!(" vlan {vlan}") };
            writeln!(out, "conflict {address} dev {dev}{vlan} afnetns {name}: {mac} uses it too")
        }
        Event::Lost { count } => writeln!(out, "lost {count} events: this reader is too slow"),
    }
}
