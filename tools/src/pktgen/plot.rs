//! An SVG of rate and latency by size: two panels, drawn with the axes that the figures need.
//!
//! ```text
//! frames/s |  bars: throughput; text: bits on the wire
//!       us |  lines: p50 and p99 at each part of the throughput (logarithmic)
//!          +--- sizes ---
//! ```

use std::fmt::Write as _;

use super::{
    report::Throughput,
    screen::{bits, si},
};

const WIDTH: f64 = 760.0;
const PANEL: f64 = 250.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const GAP: f64 = 60.0;
/// Of the latency lines, one for each part of the throughput (Okabe and Ito: told apart by everyone).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// The drawing.
pub fn svg(result: &Throughput) -> String {
    let height = TOP + 2.0 * PANEL + GAP + 50.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let devices: Vec<_> =
        result.devices.iter().map(|it| format!("{} ({})", it.device, it.mode.mode)).collect();
    text(
        &mut out,
        LEFT,
        20.0,
        "start",
        &format!("{}, loss up to {} %", devices.join(" to "), result.tolerance * 100.0),
    );
    rates(&mut out, result);
    latencies(&mut out, result, TOP + PANEL + GAP);
    out.push_str("</svg>\n");
    out
}

/// Horizontal middle of a size's place.
fn x(result: &Throughput, i: usize) -> f64 {
    let step = (WIDTH - LEFT - RIGHT) / result.sizes.len().max(1) as f64;
    LEFT + step * (i as f64 + 0.5)
}

fn rates(out: &mut String, result: &Throughput) {
    let most = result.sizes.iter().map(|it| it.frames_per_second).fold(1.0, f64::max);
    let top = round_up(most);
    let y = |value: f64| TOP + PANEL * (1.0 - value / top);
    for i in 0..=4 {
        let value = top * f64::from(i) / 4.0;
        grid(out, y(value), &format!("{}/s", si(value)));
    }
    let width = ((WIDTH - LEFT - RIGHT) / result.sizes.len().max(1) as f64 * 0.6).min(60.0);
    for (i, it) in result.sizes.iter().enumerate() {
        let (middle, top) = (x(result, i), y(it.frames_per_second));
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
            middle - width / 2.0,
            TOP + PANEL - top,
            if it.generator_bound { "#999999" } else { COLOURS[0] }
        );
        text(out, middle, top - 4.0, "middle", &bits(it.wire_bits_per_second));
        text(out, middle, TOP + PANEL + 16.0, "middle", &it.size.to_string());
    }
    text(out, WIDTH - RIGHT + 12.0, TOP + 12.0, "start", "throughput by size");
    if result.sizes.iter().any(|it| it.generator_bound) {
        text(out, WIDTH - RIGHT + 12.0, TOP + 28.0, "start", "grey: generator's limit");
    }
}

fn latencies(out: &mut String, result: &Throughput, top: f64) {
    let figures: Vec<f64> = result
        .sizes
        .iter()
        .flat_map(|it| &it.latencies)
        .filter_map(|at| at.latency_us)
        .flat_map(|latency| [latency.p50, latency.p99])
        .filter(|value| *value > 0.0)
        .collect();
    let (Some(least), Some(most)) =
        (figures.iter().copied().reduce(f64::min), figures.iter().copied().reduce(f64::max))
    else {
        return text(out, LEFT, top + 20.0, "start", "no latencies");
    };
    let (low, high) = (least.log10().floor(), (most.log10().ceil()).max(least.log10().floor() + 1.0));
    let y = |value: f64| top + PANEL * (1.0 - (value.max(1e-3).log10() - low) / (high - low));
    let mut decade = low;
    while decade <= high {
        grid(out, y(10f64.powf(decade)), &format!("{} us", 10f64.powf(decade)));
        decade += 1.0;
    }
    let fractions: Vec<f64> =
        result.sizes.first().map_or(Vec::new(), |it| it.latencies.iter().map(|at| at.fraction).collect());
    for (k, fraction) in fractions.iter().enumerate() {
        let colour = COLOURS[k % COLOURS.len()];
        for (name, dash) in [("p50", ""), ("p99", " stroke-dasharray=\"5 4\"")] {
            let points: Vec<String> = result
                .sizes
                .iter()
                .enumerate()
                .filter_map(|(i, it)| {
                    let latency = it.latencies.get(k)?.latency_us?;
                    let value = if name == "p50" { latency.p50 } else { latency.p99 };
                    Some(format!("{:.1},{:.1}", x(result, i), y(value)))
                })
                .collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                points.join(" ")
            );
            for point in &points {
                let (px, py) = point.split_once(',').unwrap_or(("0", "0"));
                let _ = writeln!(out, "<circle cx=\"{px}\" cy=\"{py}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
        let row = top + 12.0 + 16.0 * k as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            WIDTH - RIGHT + 12.0,
            row - 9.0
        );
        text(out, WIDTH - RIGHT + 28.0, row, "start", &format!("at {:.0} %", fraction * 100.0));
    }
    let row = top + 20.0 + 16.0 * fractions.len() as f64;
    text(out, WIDTH - RIGHT + 12.0, row, "start", "line p50, dashes p99");
    for (i, it) in result.sizes.iter().enumerate() {
        text(out, x(result, i), top + PANEL + 16.0, "middle", &it.size.to_string());
    }
    text(out, (LEFT + WIDTH - RIGHT) / 2.0, top + PANEL + 36.0, "middle", "bytes of a frame");
}

fn grid(out: &mut String, y: f64, label: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>",
        WIDTH - RIGHT
    );
    text(out, LEFT - 6.0, y + 4.0, "end", label);
}

/// A line of text.
pub fn text(out: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>");
}

/// The next of 1, 2, 4, 5, 10 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 4.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::{
        latency::Quantiles,
        port::Report,
        report::{AtFraction, DeviceMode, SizeResult},
    };

    #[test]
    fn is_well_formed() {
        let latency = Quantiles { samples: 1, p50: 12.0, p99: 340.0, ..Quantiles::default() };
        let size = |size, rate| SizeResult {
            size,
            frames_per_second: rate,
            wire_bits_per_second: rate * 672.0,
            generator_bound: size == 60,
            latencies: vec![AtFraction { fraction: 0.5, loss: 0.0, latency_us: Some(latency) }],
            trials: Vec::new(),
        };
        let mut result = Throughput {
            command: "rfc2544",
            devices: vec![DeviceMode {
                device: "<&>".into(),
                mode: Report { mode: "copy", refused: Vec::new() },
            }],
            tolerance: 0.0,
            trial_seconds: 1.0,
            sizes: vec![size(60, 1e6), size(1514, 3e5)],
        };
        let drawing = svg(&result);
        assert_eq!(drawing.matches("<polyline").count(), 2);
        assert!(
            drawing.contains("&lt;&amp;&gt;") && !drawing.contains("NaN") && drawing.ends_with("</svg>\n")
        );
        result.sizes.clear();
        assert!(svg(&result).contains("no latencies"));
        assert_eq!([round_up(3.1e6), round_up(1.0), round_up(9.9)], [4e6, 1.0, 10.0]);
    }
}
