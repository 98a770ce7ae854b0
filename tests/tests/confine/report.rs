//! What differs: collected over all ways, with equal findings told once.

use std::fmt::Write;

use crate::script::{Case, Line};

/// Findings in the order of their appearance, each with the ways that it occurs in.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<(String, Vec<String>)>,
}

impl Report {
    /// The oracle has to answer as the case says, and may not fail where it says nothing.
    pub fn check_oracle(&mut self, case: &Case, truth: &[String]) {
        let expected = case.lines.iter().map(|line| line.expected.clone());
        self.check(case, "oracle", expected.collect(), truth);
    }

    /// Everybody else has to answer as the oracle, but for known differences, which have to occur. The host's own
    /// programs (`unconfined`) have none.
    pub fn compare(
        &mut self,
        case: &Case,
        way: &str,
        truth: Option<&[String]>,
        answers: &[String],
        unconfined: bool,
    ) {
        let expected = case.lines.iter().enumerate().map(|(number, line)| match (&line.differs, truth) {
            (Some(difference), _) if !unconfined => Some(difference.answer.clone()),
            (_, Some(truth)) => Some(truth[number].clone()),
            _ => line.expected.clone(),
        });
        self.check(case, way, expected.collect(), answers);
    }

    /// Whether nothing differs but the numbers of ports: the kernel may have chosen one twice, for different sockets.
    pub fn is_about_ports(case: &Case, truth: Option<&[String]>, answers: &[String]) -> bool {
        let without = |text: &str| {
            let words = text.split(' ').map(|word| word.rsplit_once('*').map_or(word, |(start, _)| start));
            words.collect::<Vec<_>>().join(" ")
        };
        case.lines.iter().zip(answers).enumerate().any(|(number, (line, answer))| {
            let expected = truth.map(|truth| &truth[number]).or(line.expected.as_ref());
            expected.is_some_and(|expected| expected != answer && without(expected) == without(answer))
        })
    }

    fn check(&mut self, case: &Case, way: &str, expected: Vec<Option<String>>, answers: &[String]) {
        let is_good = |(expected, answer): (&Option<String>, &String)| match expected {
            Some(expected) => is_like(expected, answer),
            None => !is_failure(answer),
        };
        if expected.iter().zip(answers).all(is_good) {
            return;
        }
        let mut text = String::new();
        for ((line, answer), expected) in case.lines.iter().zip(answers).zip(&expected) {
            let good = is_good((expected, answer));
            let operation = format!("{}: {}", line.actor, line.op);
            let _ = write!(text, "  {} {operation:48} {answer}", if good { ' ' } else { '!' });
            if !good {
                let _ =
                    write!(text, "    EXPECTED {}{}", expected.as_deref().unwrap_or("success"), reason(line));
            }
            text.push('\n');
        }
        let text = format!("case {}\n{text}", case.name);
        match self.findings.iter_mut().find(|(known, _)| *known == text) {
            Some((_, ways)) => ways.push(way.into()),
            None => self.findings.push((text, vec![way.into()])),
        }
    }

    /// # Panics
    /// With all findings, if there are any.
    pub fn assert_empty(&self) {
        let tell = |(text, ways): &(String, Vec<String>)| format!("{text}  in: {}\n\n", ways.join("; "));
        assert!(self.findings.is_empty(), "\n{}", self.findings.iter().map(tell).collect::<String>());
    }
}

/// Word for word; in what is expected, `?` stands for any word.
fn is_like(expected: &str, answer: &str) -> bool {
    expected.split(' ').count() == answer.split(' ').count()
        && expected
            .split(' ')
            .zip(answer.split(' '))
            .all(|(expected, answer)| ["?", answer].contains(&expected))
}

fn reason(line: &Line) -> String {
    line.differs.as_ref().map_or_else(String::new, |differs| format!(" (accepted: {})", differs.reason))
}

/// What no line may answer that says nothing of it.
fn is_failure(answer: &str) -> bool {
    let is_errno = |answer: &str| {
        answer.len() > 2
            && answer.starts_with('E')
            && answer.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    is_errno(answer)
        || ["timeout", "silence"].contains(&answer)
        || ["no-such", "the probe"].iter().any(|start| answer.starts_with(start))
}
