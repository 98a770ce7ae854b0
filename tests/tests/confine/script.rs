//! The language of the cases.
//!
//! ```text
//! # Everybody has port 80.                        a comment
//! case wildcard TCP on one port                   a case begins
//! shape multi                                     addresses of `a`: dual (if nothing is said), v4, v6, multi, prefix
//! for F ANY = 4 0.0.0.0 | 6 ::                    once for each choice; ${F} and ${ANY} stand for the words (a
//!                                                 single name for all words of its choice, - for nothing)
//! a: socket s inet stream                         an operation of the probe on machine a (b, host, peer)
//! a: bind s ${ANY} 80
//! a: listen s
//! peer: reach tcp $a${F} 80 => a.s at a4:80 from peer4:*1
//! a: bind t $b4 80 => EADDRNOTAVAIL               an error has to be expected in so many words
//! a: getsockname s => a4:80 ~> a4:*1 (reason)     a known difference: oracle's answer, compartment's, reason
//! net: add a4n                                    the machine gets a further address (`del`: loses it)
//! net: set a --isolated=on                        the compartment's policy changes
//! ```
//!
//! Lines of a case head, before its first operation: `shape`, `for`, and
//!
//! | line | meaning |
//! |---|---|
//! | `only confined` | no oracle; all answers are `ok` or stand in the case |
//! | `no crowd` | the case speaks of things that only one machine can have |
//! | `no host` | the crowd is two compartments, without the host |
//! | `privileged` | with all capabilities, which `afnet exec` takes away |
//!
//! `*1` in an operation is the port that has been shown as `*1`. `$a4` is an IPv4 address of machine `a`; names of addresses are listed at [`crate::place::Place::addresses`].
//! In an expected answer `?` stands for any word. In answers known addresses are given by their names, and ports that do not stand in the case are numbered as
//! they appear: `*1`, `*2`. `reach PROTO ADDRESS PORT` connects (or sends a datagram) and tells which server got it,
//! what it sees, and for UDP where the reply came from.

use crate::place::Shape;

/// One operation.
#[derive(Clone, Debug)]
pub struct Line {
    /// Who does it.
    pub actor: String,
    /// What.
    pub op: String,
    /// The answer that stands in the case.
    pub expected: Option<String>,
    /// A known difference.
    pub differs: Option<Difference>,
}

/// What a compartment answers instead, and why that is accepted.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The answer.
    pub answer: String,
    /// Why.
    pub reason: String,
}

/// One case, with the words of its `for` lines filled in.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name and the choices.
    pub name: String,
    /// Addresses of `a`.
    pub shape: Shape,
    /// No oracle.
    pub only_confined: bool,
    /// Not in a crowd.
    pub no_crowd: bool,
    /// Crowd without the host.
    pub no_host: bool,
    /// All capabilities.
    pub privileged: bool,
    /// The operations.
    pub lines: Vec<Line>,
}

impl Case {
    /// Machines that take part, by what they do or by an address of theirs.
    pub fn actors(&self) -> Vec<&str> {
        let acting = |machine: &str, line: &Line| {
            line.actor == machine || line.op.contains(&format!("${machine}")) && machine != "peer"
        };
        let mut actors = ["a", "b", "host", "peer", "net"].to_vec();
        actors.retain(|actor| self.lines.iter().any(|line| acting(actor, line)));
        actors
    }

    /// Whether several machines can play `a` at once.
    pub fn has_crowd(&self) -> bool {
        !self.no_crowd && self.actors().iter().all(|actor| ["a", "peer", "net"].contains(actor))
    }

    /// The ports that stand in it.
    pub fn mentions_port(&self, port: u16) -> bool {
        let port = port.to_string();
        self.lines.iter().any(|line| line.op.split([' ', ':']).any(|word| word == port))
    }
}

/// All cases of a file.
///
/// # Panics
/// If it is not in the language.
pub fn parse(text: &str) -> Vec<Case> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("case ") {
            Some(_) => blocks.push(vec![line]),
            None => blocks.last_mut().unwrap_or_else(|| panic!("before the first case: {line}")).push(line),
        }
    }
    blocks.iter().flat_map(|block| instances(block)).collect()
}

/// The case for each choice of its `for` lines.
fn instances(block: &[&str]) -> Vec<Case> {
    let mut choices: Vec<Vec<(&str, &str)>> = vec![Vec::new()];
    for line in block.iter().filter_map(|line| line.strip_prefix("for ")) {
        let (names, rows) = line.split_once('=').unwrap_or_else(|| panic!("no = in: for {line}"));
        let names: Vec<&str> = names.split_whitespace().collect();
        choices = choices
            .iter()
            .flat_map(|before| {
                let names = &names;
                rows.split('|').map(move |row| {
                    let words: Vec<&str> =
                        if names.len() == 1 { vec![row.trim()] } else { row.split_whitespace().collect() };
                    assert_eq!(words.len(), names.len(), "for {line}");
                    before.iter().copied().chain(names.iter().copied().zip(words)).collect()
                })
            })
            .collect();
    }
    choices.iter().map(|choice| instance(block, choice)).collect()
}

fn instance(block: &[&str], choice: &[(&str, &str)]) -> Case {
    let fill = |text: &str| {
        // The words of later lines may name those of earlier ones.
        choice.iter().rev().fold(text.to_owned(), |text, (name, word)| {
            text.replace(&format!("${{{name}}}"), if *word == "-" { "" } else { word })
        })
    };
    let words: Vec<&str> = choice.iter().map(|(_, word)| *word).collect();
    let name = block[0].trim_start_matches("case ");
    let mut case = Case {
        name: if words.is_empty() { name.into() } else { format!("{name} [{}]", words.join(" ")) },
        shape: Shape::Dual,
        only_confined: false,
        no_crowd: false,
        no_host: false,
        privileged: false,
        lines: Vec::new(),
    };
    for line in &block[1..] {
        match *line {
            "only confined" => case.only_confined = true,
            "no crowd" => case.no_crowd = true,
            "no host" => case.no_host = true,
            "privileged" => case.privileged = true,
            line if line.starts_with("for ") => {}
            line => match line.strip_prefix("shape ") {
                Some(shape) => case.shape = Shape::named(&fill(shape)),
                None => case.lines.push(operation(&fill(line))),
            },
        }
    }
    case
}

fn operation(line: &str) -> Line {
    let (rest, differs) = match line.split_once(" ~> ") {
        Some((rest, difference)) => {
            let (answer, reason) = difference
                .split_once(" (")
                .unwrap_or_else(|| panic!("a difference without its (reason): {line}"));
            let reason = reason.trim_end_matches(')').to_owned();
            (rest, Some(Difference { answer: answer.to_owned(), reason }))
        }
        None => (line, None),
    };
    let (rest, expected) = match rest.split_once(" => ") {
        Some((rest, expected)) => (rest, Some(expected.trim().to_owned())),
        None => (rest, None),
    };
    let (actor, op) = rest.split_once(": ").unwrap_or_else(|| panic!("not ACTOR: OPERATION: {line}"));
    assert!(["a", "b", "host", "peer", "net"].contains(&actor), "no such machine: {line}");
    Line { actor: actor.into(), op: op.split_whitespace().collect::<Vec<_>>().join(" "), expected, differs }
}
