//! A report as one SVG: for each measure of each part a panel with a bar for each subject, afnet's in colour, and a line
//! from the least to the greatest of the rounds.

use std::fmt::Write as _;

use crate::{figures::Figure, pktgen::plot::text, report::Report};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 16.0;
const HEAD: f64 = 22.0;
/// Of our own bars, and of others' (Okabe and Ito: told apart by everyone).
const COLOURS: [&str; 2] = ["#0072b2", "#bbbbbb"];
/// Beginnings of our own subjects' names.
const OURS: [&str; 5] = ["afnet", "shim", "compartment", "ring", "one of"];

/// The drawing.
pub fn svg(report: &Report) -> String {
    let (mut y, mut body) = (30.0, String::new());
    for part in &report.parts {
        for panel in part.findings.figures.chunk_by(|a, b| a.measure == b.measure) {
            panel_of(&mut body, &mut y, part.name, panel);
        }
    }
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let machine = &report.machine;
    let title = format!("kernel {}, {} CPUs ({})", machine.kernel, machine.cpus, machine.processor);
    text(&mut out, 10.0, 18.0, "start", &title);
    out.push_str(&body);
    out.push_str("</svg>\n");
    out
}

fn panel_of(out: &mut String, y: &mut f64, part: &str, figures: &[Figure]) {
    let Some(first) = figures.first() else { return };
    text(out, 10.0, *y + 14.0, "start", &format!("{part}: {}, {}", first.measure, first.unit));
    *y += HEAD;
    let most = figures.iter().flat_map(|figure| &figure.rounds).copied().fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (value / most).clamp(0.0, 1.0);
    for figure in figures {
        let own = OURS.iter().any(|ours| figure.subject.starts_with(ours));
        let middle = *y + ROW / 2.0;
        text(out, LEFT - 6.0, middle + 4.0, "end", &figure.subject);
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
            *y + 2.0,
            x(figure.median) - LEFT,
            ROW - 4.0,
            COLOURS[usize::from(!own)]
        );
        let least = figure.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = figure.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let _ = writeln!(
            out,
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>",
            x(least),
            x(greatest)
        );
        text(out, x(greatest) + 6.0, middle + 4.0, "start", &format!("{:.2}", figure.median));
        *y += ROW;
    }
    *y += 10.0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figures::Findings,
        report::{Machine, Part},
    };

    #[test]
    fn each_measure_has_its_panel() {
        let figure =
            |measure, subject: &str| Figure::new(measure, "M/s", subject.into(), vec![1.0, 3.0, 2.0]);
        let figures = vec![figure("a", "afnet"), figure("a", "<b>"), figure("c", "afnet")];
        let findings = Findings { figures, ..Findings::default() };
        let report = Report { machine: Machine::default(), parts: vec![Part { name: "part", findings }] };
        let drawing = svg(&report);
        assert_eq!((drawing.matches("part: ").count(), drawing.matches("<line").count()), (2, 3));
        assert!(drawing.contains("&lt;b&gt;") && !drawing.contains("NaN") && drawing.ends_with("</svg>\n"));
        assert_eq!(drawing.matches(COLOURS[1]).count(), 1);
    }
}
