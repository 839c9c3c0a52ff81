//! Columns of text, and times as people say them.

/// Lines whose cells stand under each other; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `3d 4h`, `4h 5m`, `5m 6s` or `6s`.
pub fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// `1 session`, `2 sessions`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_under_each_other() {
        let rows = [vec!["NODE".to_owned(), "PID".into()], vec!["edge-1".into(), "7".into()]];
        assert_eq!(table(&rows), "NODE    PID\nedge-1  7\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn times_have_two_units() {
        let told: Vec<_> = [0, 59, 61, 3_661, 90_061].into_iter().map(time).collect();
        assert_eq!(told, ["0s", "59s", "1m 1s", "1h 1m", "1d 1h"]);
    }
}
