//! Windows of the calendar, in UTC: a limit of a minute begins anew with every minute, whoever came when.

use time::{Date, Month, OffsetDateTime};

const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 86_400 * SECOND_MS;
/// 1970-01-01 was a Thursday; weeks begin on Mondays (ISO 8601).
const FIRST_MONDAY_MS: u64 = 4 * DAY_MS;

/// What a window's length is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowUnit {
    /// A second of the clock.
    Second,
    /// From second 0 of a minute.
    Minute,
    /// From minute 0 of an hour.
    Hour,
    /// From midnight, UTC.
    Day,
    /// From Monday, ISO 8601.
    Week,
    /// From the first of a month.
    Month,
    /// From the first of January.
    Year,
}

/// So many units of the calendar. Several of them are counted from 1970, weeks from its first Monday: windows of five
/// minutes begin at minute 0, 5, 10, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// The unit.
    pub unit: WindowUnit,
    /// How many of it; 0 counts as 1.
    pub count: u32,
}

impl Window {
    /// One unit.
    pub const fn one(unit: WindowUnit) -> Self {
        Self { unit, count: 1 }
    }

    /// When the window that holds this moment begins, and when the next does: milliseconds since 1970. What lies beyond
    /// the calendar (the year 9999) has one window that does not end.
    pub fn around(self, wall_ms: u64) -> (u64, u64) {
        let count = u64::from(self.count.max(1));
        let fixed = |length_ms: u64, origin_ms: u64| {
            let length_ms = length_ms.saturating_mul(count);
            if wall_ms < origin_ms {
                return (0, origin_ms);
            }
            let start_ms = wall_ms - (wall_ms - origin_ms) % length_ms;
            (start_ms, start_ms.saturating_add(length_ms))
        };
        match self.unit {
            WindowUnit::Second => fixed(SECOND_MS, 0),
            WindowUnit::Minute => fixed(60 * SECOND_MS, 0),
            WindowUnit::Hour => fixed(3600 * SECOND_MS, 0),
            WindowUnit::Day => fixed(DAY_MS, 0),
            WindowUnit::Week => fixed(7 * DAY_MS, FIRST_MONDAY_MS),
            WindowUnit::Month => months(wall_ms, count),
            WindowUnit::Year => months(wall_ms, count.saturating_mul(12)),
        }
    }
}

fn months(wall_ms: u64, count: u64) -> (u64, u64) {
    let Some(now) = i64::try_from(wall_ms / 1000).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok())
    else {
        return (0, u64::MAX);
    };
    // A time since 1970 has a year from 1970 on, and a month from 1 on.
    let since_1970 = u64::from((now.year() - 1970).unsigned_abs()) * 12 + u64::from(u8::from(now.month())) - 1;
    let first = since_1970 - since_1970 % count;
    let begins = |month: u64| -> Option<u64> {
        let year = i32::try_from(1970 + month / 12).ok()?;
        let month = Month::try_from(u8::try_from(month % 12).ok()? + 1).ok()?;
        let date = Date::from_calendar_date(year, month, 1).ok()?;
        u64::try_from(date.midnight().assume_utc().unix_timestamp()).ok()?.checked_mul(1000)
    };
    (begins(first).unwrap_or(0), first.checked_add(count).and_then(begins).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp_nanos() / 1_000_000).unwrap()
    }

    #[test]
    fn windows_are_the_calendars() {
        use WindowUnit::{Day, Hour, Minute, Month, Second, Week, Year};
        let at = ms("2028-02-29T13:47:31.250Z");
        for (unit, count, from, to) in [
            (Second, 1, "2028-02-29T13:47:31Z", "2028-02-29T13:47:32Z"),
            (Second, 10, "2028-02-29T13:47:30Z", "2028-02-29T13:47:40Z"),
            (Minute, 1, "2028-02-29T13:47:00Z", "2028-02-29T13:48:00Z"),
            (Minute, 5, "2028-02-29T13:45:00Z", "2028-02-29T13:50:00Z"),
            (Hour, 1, "2028-02-29T13:00:00Z", "2028-02-29T14:00:00Z"),
            (Day, 1, "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Week, 1, "2028-02-28T00:00:00Z", "2028-03-06T00:00:00Z"),
            (Month, 1, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Month, 3, "2028-01-01T00:00:00Z", "2028-04-01T00:00:00Z"),
            (Year, 1, "2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z"),
            (Month, 0, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        ] {
            let window = Window { unit, count };
            assert_eq!(window.around(at), (ms(from), ms(to)), "{count} {unit:?}");
            assert_eq!(window.around(ms(from)), (ms(from), ms(to)), "its first moment is in it");
            assert_eq!(window.around(ms(to) - 1), (ms(from), ms(to)), "so is its last");
            assert_eq!(window.around(ms(to)).0, ms(to), "and its end is not");
        }
    }

    #[test]
    fn no_time_is_outside_of_every_window() {
        for unit in [WindowUnit::Second, WindowUnit::Week, WindowUnit::Month, WindowUnit::Year] {
            for at in [0, 1, FIRST_MONDAY_MS - 1, u64::MAX / 2, u64::MAX - 1] {
                for count in [1, 7, u32::MAX] {
                    let (start, end) = Window { unit, count }.around(at);
                    assert!(start <= at && at < end, "{unit:?} × {count} at {at}: {start}..{end}");
                }
            }
        }
    }
}
