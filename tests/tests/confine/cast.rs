//! Plays a case in a world: who does what where, and what they answer, in the names of the case.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use afnet_tests::wait;

use crate::{
    place::{HOST, Place, Shape, names},
    probe::Build,
    script::{Case, Line},
    world::{Seat, World},
};

/// How long a connection or datagram may take until its server or an error shows.
const ARRIVAL: Duration = Duration::from_millis(700);

/// The programs that play one copy of a case.
#[derive(Debug)]
pub struct Cast {
    seats: HashMap<String, Seat>,
    names: Vec<(String, IpAddr)>,
    /// Ephemeral ports in order of their appearance.
    ports: Vec<u16>,
    /// It is the host that plays `a`, which is not confined.
    pub unconfined: bool,
}

impl Cast {
    /// `a` at a place, with the peer of that number.
    pub fn new(case: &Case, a: Place, build: Build, peer: u8) -> Self {
        let b = Place::compartment(Shape::Dual, 1);
        let places = [("a", a), ("b", b), ("host", HOST), ("peer", Place::peer(peer))];
        let seats = places.map(|(name, place)| (name.to_owned(), (place, build, case.privileged)));
        let unconfined = a == HOST;
        // Whichever of its addresses the peer's kernel takes for a dialler, it is the peer's.
        let peers = (0..3).map(|which| ("peer", Place::peer(which)));
        let names = names(&places.into_iter().chain(peers).collect::<Vec<_>>());
        Self { seats: seats.into(), names, ports: Vec::new(), unconfined }
    }

    /// Addresses for their names.
    fn fill(&self, op: &str) -> String {
        let word = |word: &str| match word.split_once('$') {
            Some((before, name)) => {
                let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
                let found = self.names.iter().find(|(known, _)| known == &name[..end]);
                let (_, address) = found.unwrap_or_else(|| panic!("no such address: {word} in {op}"));
                format!("{before}{address}{}", &name[end..])
            }
            None => match word.strip_prefix('*').and_then(|number| number.parse::<usize>().ok()) {
                Some(number) => self.ports.get(number - 1).map_or("0".to_owned(), u16::to_string),
                None => word.to_owned(),
            },
        };
        op.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    /// Names for addresses, and numbers for ports that the case does not name.
    fn normalise(&mut self, case: &Case, answer: &str) -> String {
        let words: Vec<String> = answer
            .split(' ')
            .map(|word| match (word.parse::<SocketAddr>(), word.parse::<IpAddr>()) {
                (Ok(address), _) => {
                    let port = address.port();
                    let host = self.name(address.ip());
                    if port == 0 || case.mentions_port(port) {
                        return format!("{host}:{port}");
                    }
                    let known = self.ports.iter().position(|&known| known == port);
                    let number = known.unwrap_or_else(|| {
                        self.ports.push(port);
                        self.ports.len() - 1
                    });
                    format!("{host}:*{}", number + 1)
                }
                (_, Ok(address)) => self.name(address),
                _ => word.to_owned(),
            })
            .collect();
        words.join(" ")
    }

    fn name(&self, address: IpAddr) -> String {
        let mapped = match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        if let Some(v4) = mapped {
            return format!("::ffff:{}", self.name(v4));
        }
        let found = self.names.iter().find(|(_, known)| *known == address);
        match (found, address) {
            (Some((name, _)), _) => name.clone(),
            (None, IpAddr::V4(v4)) => v4.to_string(),
            (None, IpAddr::V6(v6)) => v6.to_string(),
        }
    }
}

/// Runs a case with some casts at once, step by step; the answers of each cast.
pub fn play(world: &mut World<'_>, case: &Case, mut casts: Vec<Cast>) -> Vec<Vec<String>> {
    let actors: Vec<&str> = case.actors().into_iter().filter(|actor| *actor != "net").collect();
    let everyone: Vec<(usize, &str, Seat)> = casts
        .iter()
        .enumerate()
        .flat_map(|(number, cast)| actors.iter().map(move |&actor| (number, actor, cast.seats[actor])))
        .collect();
    let mut answers = vec![Vec::new(); casts.len()];
    let mut added = Vec::new();
    for line in &case.lines {
        for (number, cast) in casts.iter_mut().enumerate() {
            let answer = if line.actor == "net" {
                change(world, cast, &line.op, &mut added)
            } else if line.op.starts_with("reach ") {
                reach(world, cast, line, number, &everyone)
            } else {
                world.probe(cast.seats[&line.actor]).ask(&cast.fill(&line.op))
            };
            answers[number].push(cast.normalise(case, &answer));
        }
    }
    for (_, _, seat) in everyone {
        if world.probe(seat).ask("reset") != "ok" || case.lines.iter().any(|line| line.op == "daemon") {
            world.forget(seat);
        }
    }
    for (place, address) in added {
        world.change(place, "del", address);
    }
    answers
}

/// `add NAME`, `del NAME` and `set MACHINE POLICY` of the network.
fn change(world: &mut World<'_>, cast: &Cast, op: &str, added: &mut Vec<(Place, IpAddr)>) -> String {
    let (verb, name) = op.split_once(' ').unwrap_or_else(|| panic!("net: {op}"));
    if let ("set", Some((machine, policy))) = (verb, name.split_once(' ')) {
        return world.set_policy(cast.seats[machine].0, policy);
    }
    let (_, address) = *cast
        .names
        .iter()
        .find(|(known, _)| known == name)
        .unwrap_or_else(|| panic!("no such address: {name}"));
    let machine = name.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
    let (place, ..) = cast.seats[machine];
    match verb {
        "add" => added.push((place, address)),
        _ => added.retain(|entry| *entry != (place, address)),
    }
    world.change(place, verb, address)
}

/// Connects or sends, and finds out who got it.
fn reach(
    world: &mut World<'_>,
    cast: &Cast,
    line: &Line,
    number: usize,
    everyone: &[(usize, &str, Seat)],
) -> String {
    let dialler = cast.seats[&line.actor];
    let dialled = world.probe(dialler).ask(&cast.fill(&line.op.replacen("reach", "dial", 1)));
    if dialled != "ok" {
        return dialled;
    }
    let udp = line.op.starts_with("reach udp");
    let found = wait::within(ARRIVAL, || {
        for &(other, actor, seat) in everyone {
            let answer = world.probe(seat).ask("serve");
            if answer != "nobody" {
                let whose = if other == number { String::new() } else { format!("(of copy {other}) ") };
                return Some((true, format!("{whose}{actor}.{answer}")));
            }
        }
        // An error comes to the dialler, the answer of a server never before that server was asked.
        let answer = if udp { world.probe(dialler).ask("answer 0") } else { "silence".into() };
        (answer != "silence").then_some((false, answer))
    });
    match found {
        Some((true, server)) if udp => format!("{server} {}", world.probe(dialler).ask("answer")),
        Some((true, server)) => {
            let answer = world.probe(dialler).ask("answer");
            if answer == "reply" { server } else { format!("{server} {answer}") }
        }
        Some((false, error)) => error,
        None => "silence".into(),
    }
}
