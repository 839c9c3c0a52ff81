//! Problems of a configuration that was put together, told by where its parts come from.
//!
//! proto's checks speak of places in one configuration, `/keys/3`; here a place becomes a line of a file, the catalogue, or
//! a change of the call.

use super::Kind;

/// The kind, the index, and what is behind them, of a pointer such as `/keys/3/application`.
pub(super) fn part(pointer: &str) -> Option<(Kind, usize, &str)> {
    let (family, rest) = pointer.strip_prefix('/')?.split_once('/')?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.family() == family)?;
    let (index, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some((kind, index.parse().ok()?, rest))
}

/// A message in which each `(/family/index)` is replaced by where that entry comes from.
pub(super) fn retell(message: &str, origin: impl Fn(Kind, usize) -> Option<String>) -> String {
    let mut told = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find("(/") {
        told.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        let Some(end) = rest.find(')') else { break };
        let named = part(&rest[..end]).filter(|(_, _, behind)| behind.is_empty());
        if let Some(origin) = named.and_then(|(kind, index, _)| origin(kind, index)) {
            told.push_str(&origin);
            rest = &rest[end..];
        }
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_other_becomes_its_origin() {
        let origin = |kind: Kind, index: usize| (index > 1).then(|| format!("{kind} {index} of mine"));
        for (message, told) in [
            (
                "there is another key \"a\" (/keys/3); rename one",
                "there is another key \"a\" (key 3 of mine); rename one",
            ),
            ("a (/apis/2) and (/apis/1) and (/apis/9", "a (api 2 of mine) and (/apis/1) and (/apis/9"),
            ("a (/keys/3/name) is (/upstreams/3) and (b)", "a (/keys/3/name) is (/upstreams/3) and (b)"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(retell(message, origin), told);
        }
        assert_eq!(part("/keys/3/application"), Some((Kind::Key, 3, "/application")));
        assert_eq!(part("/keys"), None);
    }
}
