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

/// A case in which a way is known to differ.
struct Open {
    case: &'static str,
    way: Way,
    when: When,
    reason: &'static str,
}

/// How often it does.
#[derive(Eq, PartialEq)]
enum When {
    /// Each time, in some family at least. It fails when it no longer does.
    Always,
    /// By the order of things that happen at one time.
    Sometimes,
}

const fn open(case: &'static str, way: Way, when: When, reason: &'static str) -> Open {
    Open { case, way, when, reason }
}

/// All of them: they run, what differs is shown, and does not count.
const OPEN: &[Open] = &[
    open(
        "names-filter",
        Way::Plain,
        When::Always,
        "one bound to all addresses hears nothing after connect and disconnect",
    ),
    open(
        "receive-over-the-edge",
        Way::Fast,
        When::Always,
        "a buffer is written that the kernel would have refused",
    ),
    open(
        "process-exec",
        Way::Fast,
        When::Sometimes,
        "what is in the ring when a program that inherits the socket starts is lost",
    ),
    open(
        "process-rights-to-itself",
        Way::Fast,
        When::Always,
        "what is in the ring is lost when the descriptor is passed on",
    ),
    open(
        "fuzz",
        Way::Fast,
        When::Sometimes,
        "the filter of connect() when datagrams are queued; FIONREAD over two queues",
    ),
];

/// Why a case that differs does not count, if so.
pub fn open_reason(case: &Case, way: Way) -> Option<&'static str> {
    let open = OPEN.iter().find(|open| open.case == case.name && open.way == way);
    open.map(|open| open.reason)
}

/// Says which of the cases that a way has run are known to differ always, and none of its runs did. `runs`: name, way,
/// whether it differed.
pub fn mended(runs: &[(String, Way, bool)]) -> String {
    let mut text = String::new();
    for open in OPEN.iter().filter(|open| open.when == When::Always) {
        let mut of_it =
            runs.iter().filter(|(name, way, _)| *name == open.case && *way == open.way).peekable();
        if of_it.peek().is_some() && of_it.all(|(.., differed)| !differed) {
            let _ =
                writeln!(text, "{} {}: differs no longer: remove it from OPEN", open.case, open.way.name());
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
