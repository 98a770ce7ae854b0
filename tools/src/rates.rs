//! Datagrams delivered to a process, by size and by the number of compartments that get their share.

use crate::{
    figures::{Bench, Column, Findings, Wanted},
    subject::Subject,
};

const DELIVERED: &str = "delivered";
const COLUMNS: [Column; 2] = [
    Column { name: DELIVERED, unit: "M/s", less: false },
    Column { name: "offered", unit: "M/s", less: false },
];
/// At this size in bytes and below peers are compared by what they do with packets, not with bytes.
const SMALL: usize = 64;

/// Measures afnet with each number of compartments, and all peers, at each size.
pub fn run(bench: &Bench, sizes: &[usize], compartments: &[u32]) -> Findings {
    let mut findings = Findings::default();
    let many = compartments.iter().filter(|number| **number > 1).map(|number| Subject::Afnet(*number));
    let peers = [Subject::Dpdk, Subject::Bridge, Subject::Routing, Subject::Macvlan, Subject::HostSocket];
    let all: Vec<Subject> = [Subject::Afnet(1)].into_iter().chain(many).chain(peers).collect();
    for &size in sizes {
        let name = |subject: Subject| format!("{}, {size} B", subject.name());
        let mut subjects: Vec<(String, Subject)> =
            all.iter().map(|subject| (name(*subject), *subject)).collect();
        let names: Vec<String> = subjects.iter().map(|(name, _)| name.clone()).collect();
        let wanted: Vec<Wanted<'_>> = all
            .iter()
            .zip(&names)
            .skip(1)
            .map(|(subject, name)| {
                let ours = &*names[0];
                match subject {
                    Subject::Afnet(number) => {
                        let goal = match number {
                            0..=1024 => 0.9,
                            _ => 0.8,
                        };
                        (DELIVERED, &**name, ours, Some(goal))
                    }
                    _ => (
                        DELIVERED,
                        ours,
                        &**name,
                        goal(*subject).filter(|_| size <= SMALL || *subject == Subject::Dpdk),
                    ),
                }
            })
            .collect();
        findings.rounds(bench, &mut subjects, &COLUMNS, &wanted, |subject| subject.measure(size, bench.time));
    }
    findings
}

/// What the project wants of afnet, relative to a peer.
fn goal(peer: Subject) -> Option<f64> {
    match peer {
        Subject::Dpdk => Some(1.0),
        Subject::Bridge => Some(7.0),
        Subject::Routing => Some(5.0),
        Subject::Macvlan => Some(3.5),
        _ => None,
    }
}
