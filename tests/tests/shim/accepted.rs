//! Differences that are known and accepted.

use std::fmt::Write;

use crate::{run::Case, world::Way};

/// A line that is another one than the oracle's.
struct Accepted {
    case: &'static str,
    /// Only of this family; `*`: of both.
    family: char,
    oracle: &'static str,
    answer: &'static str,
    reason: &'static str,
}

/// All of them.
const ACCEPTED: &[Accepted] = &[
    Accepted {
        case: "control-source",
        family: '4',
        oracle: "foreign address: ENETUNREACH",
        answer: "foreign address: EINVAL",
        reason: "a source that is not the compartment's is refused before a route is looked for",
    },
    Accepted {
        case: "control-source",
        family: '4',
        oracle: "no such device: ENETUNREACH",
        answer: "no such device: EINVAL",
        reason: "the same",
    },
    Accepted {
        case: "names-both-families-connected",
        family: '6',
        oracle: "connect by six: 0",
        answer: "connect by six: EAFNOSUPPORT",
        reason: "a socket bound to all addresses of both families connects over IPv4 alone (README)",
    },
    Accepted {
        case: "names-both-families-connected",
        family: '6',
        oracle: "by six: to peer:p1 (28)",
        answer: "by six: ENOTCONN",
        reason: "the same",
    },
];

/// Cases in which a way is known to differ, each time, in some family at least: they run, what differs is shown, and does
/// not count. One that no longer differs fails.
const OPEN: &[(&str, Way, &str)] = &[
    ("names-filter", Way::Plain, "one bound to all addresses hears nothing after connect and disconnect"),
    ("groups-connected", Way::Plain, "the same"),
    ("control-group", Way::Plain, "IP_PKTINFO has the host's address as the one to answer a group from"),
    ("groups-two", Way::Plain, "of a compartment's sockets that share a port one hears a group (README)"),
    (
        "receive-over-the-edge",
        Way::Fast,
        "memory that cannot be written ends the program: to ask the kernel costs a system call for each datagram",
    ),
];

/// Why a case that differs does not count, if so.
pub fn open_reason(case: &Case, way: Way) -> Option<&'static str> {
    let open = OPEN.iter().find(|(name, of, _)| *name == case.name && *of == way);
    open.map(|(.., reason)| *reason)
}

/// Says which of the cases that are known to differ have been run, and did not. `runs`: name, way, whether it differed.
pub fn mended(runs: &[(String, Way, bool)]) -> String {
    let mut text = String::new();
    for (name, way, _) in OPEN {
        let of_it = || runs.iter().filter(|(of, by, _)| of == name && by == way);
        if of_it().next().is_some() && of_it().all(|(.., differed)| !differed) {
            let _ = writeln!(text, "{name} {}: differs no longer: remove it from OPEN", way.name());
        }
    }
    text
}

/// What differs and is not accepted, for people.
pub fn compare(case: &Case, way: Way, truth: &str, answers: &str) -> String {
    if truth == answers {
        return String::new();
    }
    let (truth, answers): (Vec<_>, Vec<_>) = (truth.lines().collect(), answers.lines().collect());
    let mut text = String::new();
    let mut bad = truth.len() != answers.len();
    for number in 0..truth.len().max(answers.len()) {
        let [expected, got] =
            [&truth, &answers].map(|lines| lines.get(number).copied().unwrap_or("(nothing)"));
        let known = (expected != got).then(|| find(case, expected, got)).flatten();
        bad |= expected != got && known.is_none();
        let mark = if expected == got { ' ' } else { '!' };
        let _ = write!(text, "  {mark} {got:60}");
        if expected != got {
            let reason = known.map_or_else(String::new, |known| format!(" (accepted: {})", known.reason));
            let _ = write!(text, " EXPECTED {expected}{reason}");
        }
        text.push('\n');
    }
    if bad { format!("{} {} {}\n{text}\n", case.name, case.family, way.name()) } else { String::new() }
}

fn find(case: &Case, expected: &str, got: &str) -> Option<&'static Accepted> {
    ACCEPTED.iter().find(|accepted| {
        accepted.case == case.name
            && ['*', case.family].contains(&accepted.family)
            && (accepted.oracle, accepted.answer) == (expected, got)
    })
}
