//! Columns of text, and times as people say them.

/// Lines whose cells stand under each other; the first row is the heading. Cells may hold what clients have said: what
/// would command a terminal, or turn the direction of a line round, is spelt out.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| readable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn readable(cell: &str) -> String {
    let mut text = String::with_capacity(cell.len());
    for character in cell.chars() {
        match character {
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                text.extend(character.escape_unicode());
            }
            other if other.is_control() => text.extend(other.escape_default()),
            other => text.push(other),
        }
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
    fn what_a_cell_holds_says_nothing_to_the_terminal() {
        let rows = [["a\u{1b}[2J", "b"], ["a\n\u{9b}\u{202e}é", "c"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a\\u{1b}[2J          b\na\\n\\u{9b}\\u{202e}é  c\n");
    }

    #[test]
    fn times_have_two_units() {
        let told: Vec<_> = [0, 59, 61, 3_661, 90_061].into_iter().map(time).collect();
        assert_eq!(told, ["0s", "59s", "1m 1s", "1h 1m", "1d 1h"]);
    }
}
