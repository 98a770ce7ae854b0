//! Latencies in a histogram (HdrHistogram): three digits from 1 ns to a minute. Recording allocates nothing.

use hdrhistogram::Histogram;

/// What is longer counts as this, in nanoseconds: a minute.
const MOST: u64 = 60_000_000_000;

/// Latencies of a stream.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
    /// Stamps whose time makes no sense: in the future, or forged.
    pub odd: u64,
}

/// The figures of a histogram, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Quantiles {
    /// Number of samples.
    pub samples: u64,
    /// Least.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// Greatest.
    pub max: f64,
}

impl Default for Latency {
    fn default() -> Self {
        // The bounds are constants that the constructor accepts; `unwrap_or_else` keeps panics out all the same.
        let histogram = Histogram::new_with_bounds(1, MOST, 3)
            .or_else(|_| Histogram::new(3))
            .unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        Self { histogram, odd: 0 }
    }
}

impl Latency {
    /// Adds a latency in nanoseconds; none: one that makes no sense.
    #[inline]
    pub fn record(&mut self, nanoseconds: Option<u64>) {
        match nanoseconds {
            Some(value) => self.histogram.saturating_record(value.clamp(1, MOST)),
            None => self.odd += 1,
        }
    }

    /// Adds another histogram.
    pub fn add(&mut self, other: &Self) {
        self.odd += other.odd;
        // Equal bounds, so nothing is out of range.
        let _ = self.histogram.add(&other.histogram);
    }

    /// Forgets everything, without allocation.
    pub fn reset(&mut self) {
        self.histogram.reset();
        self.odd = 0;
    }

    /// The figures, if there are samples.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let histogram = &self.histogram;
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let at = |quantile| microseconds(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Quantiles {
            samples: histogram.len(),
            min: microseconds(histogram.min()),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: microseconds(histogram.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantiles(), None);
        (1..=1000).for_each(|i| latency.record(Some(i * 1000)));
        latency.record(None);
        let mut sum = Latency::default();
        sum.add(&latency);
        let figures = sum.quantiles().unwrap();
        assert_eq!((figures.samples, sum.odd), (1000, 1));
        assert!((figures.p50 - 500.0).abs() < 1.0 && (figures.p99 - 990.0).abs() < 1.0, "{figures:?}");
        sum.record(Some(u64::MAX));
        assert!(sum.quantiles().unwrap().max >= 6e7);
    }
}
