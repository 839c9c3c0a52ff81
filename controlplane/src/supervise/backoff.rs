//! How long to wait before a process that died is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// A life this long was a healthy one.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Doubles from one short life to the next; a healthy life begins anew.
#[derive(Debug, Default)]
pub struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// A life of this length has ended; how long to wait.
    pub fn died_after(&mut self, life: Duration) -> Duration {
        let delay = match self.last {
            Some(last) if life < HEALTHY_AFTER => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_wait_twice_as_long_each_time_up_to_five_seconds_and_a_healthy_one_begins_anew() {
        let mut backoff = Backoff::default();
        let mut waits = |life: u64| backoff.died_after(Duration::from_secs(life)).as_millis();
        let short: Vec<_> = (0..8).map(|_| waits(1)).collect();
        assert_eq!(short, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(waits(31), 100);
        assert_eq!(waits(0), 200);
    }
}
