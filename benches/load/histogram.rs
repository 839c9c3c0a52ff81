//! How long things took: counts in cells that grow with the value, so that each is known within a hundredth.

use std::time::Duration;

/// Cells of each doubling, as a power of two.
const PRECISION_BITS: u32 = 6;
const CELLS_PER_DOUBLING: usize = 1 << PRECISION_BITS;

/// Durations up to centuries, in nanoseconds.
pub struct Histogram {
    cells: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { cells: vec![0; CELLS_PER_DOUBLING * (65 - PRECISION_BITS as usize)], count: 0 }
    }

    pub fn clear(&mut self) {
        self.cells.fill(0);
        self.count = 0;
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.cells[cell(nanoseconds)] += 1;
        self.count += 1;
    }

    /// The shortest time that is not exceeded by this share of what was recorded; zero where nothing was.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.cells.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(middle(index));
            }
        }
        Duration::ZERO
    }
}

/// Small values have a cell each; above, a doubling has as many cells as the small values.
fn cell(value: u64) -> usize {
    let doublings = (64 - value.leading_zeros()).saturating_sub(PRECISION_BITS + 1);
    doublings as usize * CELLS_PER_DOUBLING + (value >> doublings) as usize
}

/// The middle of a cell.
fn middle(index: usize) -> u64 {
    let doublings = (index / CELLS_PER_DOUBLING).saturating_sub(1);
    let base = (index - doublings * CELLS_PER_DOUBLING) as u64;
    (base << doublings) + (1 << doublings) / 2
}
