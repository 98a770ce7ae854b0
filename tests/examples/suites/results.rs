//! What a suite's output says.

use std::{collections::BTreeMap, fmt};

/// The tests, and whether they have passed.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<String, bool>);

impl Results {
    /// Names of those that have.
    pub fn passed(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, good)| **good).map(|(name, _)| &**name)
    }

    /// Whether this one has.
    pub fn has_passed(&self, name: &str) -> bool {
        self.0.get(name) == Some(&true)
    }

    fn add(&mut self, name: &str, good: bool) {
        self.0.insert(name.into(), good);
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.passed().count(), self.0.len())
    }
}

/// CPython: `test_x (test.test_socket.Y.test_x) ... ok`, with other output in between perhaps.
pub fn python(output: &str) -> Results {
    let verdict = |text: &str| match text.trim() {
        "ok" => Some(true),
        "FAIL" | "ERROR" => Some(false),
        _ => None,
    };
    let mut results = Results::default();
    let mut last = None;
    for line in output.lines() {
        let mut rest = line;
        if let Some((name, after)) = line.split_once(") ... ") {
            last = name.split_once('(').map(|(_, name)| name);
            rest = after;
        }
        if let (Some(name), Some(good)) = (last, verdict(rest)) {
            results.add(name, good);
            last = None;
        }
    }
    results
}

/// Rust: `test x::y ... ok`.
pub fn rust(output: &str) -> Results {
    let mut results = Results::default();
    for line in output.lines() {
        let Some((name, verdict)) = line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... "))
        else {
            continue;
        };
        match verdict.trim() {
            "ok" => results.add(name, true),
            "FAILED" => results.add(name, false),
            _ => {}
        }
    }
    results
}

/// libuv: `ok 1 - udp_bind`, `not ok 1 - udp_bind`, `ok 1 - udp_bind # SKIP why`.
pub fn tap(output: &str) -> Results {
    let mut results = Results::default();
    for line in output.lines().filter(|line| !line.contains("# SKIP")) {
        let Some((verdict, name)) = line.split_once(" - ") else { continue };
        if let Some(good) = [("ok ", true), ("not ok ", false)]
            .iter()
            .find_map(|(word, good)| verdict.starts_with(word).then_some(*good))
        {
            results.add(name.trim(), good);
        }
    }
    results
}
