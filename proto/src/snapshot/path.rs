//! Paths: where an API's context and version put it, which topics lie below, and what a topic maps to.
//!
//! Says which texts are sound and how one template is compared with one path; which API is asked at all is the data
//! plane's routing. Paths are compared as they travel, byte by byte: nothing is percent-decoded.

use std::cmp::Ordering;
use std::fmt;

use super::Api;
use crate::limits::PATH_BYTES_MAX;

/// Stands in a context for the API's version.
const VERSION: &str = "{version}";

impl Api {
    /// How the API is called in logs, metrics and commands: `name`, or `name:version`.
    pub fn label(&self) -> String {
        Label(&self.name, &self.version).to_string()
    }

    /// The path under which this version is reached: the context with the version in its place, or behind it.
    pub fn path(&self) -> String {
        let context = self.context.trim_end_matches('/');
        if self.context.contains(VERSION) {
            self.context.replace(VERSION, &self.version)
        } else if self.version.is_empty() {
            if context.is_empty() { "/".into() } else { context.into() }
        } else {
            format!("{context}/{}", self.version)
        }
    }

    /// The path without the version, where this version also answers because it is the default.
    pub fn default_path(&self) -> Option<String> {
        if !self.default_version || self.version.is_empty() {
            return None;
        }
        let path = self.context.replace("/{version}", "");
        Some(if path.is_empty() { "/".into() } else { path })
    }
}

/// `name` or `name:version`, of borrowed parts.
pub(super) struct Label<'a>(pub &'a str, pub &'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        if self.1.is_empty() { Ok(()) } else { write!(f, ":{}", self.1) }
    }
}

/// Whether a context is sound; the version decides whether `{version}` may stand in it.
pub(super) fn context_problem(context: &str, version: &str) -> Option<String> {
    let form = "a context is / or segments that each begin with /, such as /chat or /chat/{version}/live";
    if !context.starts_with('/') {
        return Some(format!("the context {context:?} does not begin with /; {form}"));
    }
    if context.len() > PATH_BYTES_MAX {
        return Some(format!("the context has more than {PATH_BYTES_MAX} bytes; shorten it"));
    }
    if context == "/" {
        return None;
    }
    let mut versions = 0;
    for segment in context[1..].split('/') {
        if segment == VERSION {
            versions += 1;
        } else if let Some(fault) = segment_fault(segment) {
            return Some(format!("the context {context:?} {fault}; {form}"));
        }
    }
    match versions {
        0 => None,
        1 if version.is_empty() => {
            Some(format!("the context {context:?} has {{version}}, but the API has no version; give it one"))
        }
        1 => None,
        _ => Some(format!("the context {context:?} has {{version}} more than once; keep one")),
    }
}

/// What a segment of a context, topic or mapping has that it must not have.
fn segment_fault(segment: &str) -> Option<&'static str> {
    if segment.is_empty() {
        return Some("has an empty segment or ends with /");
    }
    if has_dot_segment(segment) {
        return Some("has a segment that is . or .., or becomes one when decoded");
    }
    text_fault(segment)
}

/// What a piece of a path has that RFC 3986 §3.3 does not allow there, or that means something else here.
fn text_fault(text: &str) -> Option<&'static str> {
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {}
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'+' | b',' | b';' | b'=' => {}
            b':' | b'@' => {}
            b'%' if bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => {}
            b'%' => return Some("has a % that two hexadecimal digits do not follow"),
            b'*' => return Some("has a * in it; * stands only as the whole last segment of a topic, or in a mapping"),
            b'{' | b'}' => return Some("has a brace in it; {parameter} stands as a whole segment"),
            b'?' | b'#' => return Some("has a query or a fragment"),
            _ => return Some("has a character that no path has; write it percent-encoded"),
        }
    }
    None
}

/// Whether some reader of this path may find a `.` or `..` segment in it, percent-encoded ones, encoded slashes and
/// backslashes included. Such a path means different things to different servers.
pub fn has_dot_segment(path: &str) -> bool {
    let bytes = path.as_bytes();
    let (mut dots, mut others) = (0_usize, false);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let decoded = if byte == b'%' { encoded(&bytes[at + 1..]) } else { None };
        at += if decoded.is_some() { 3 } else { 1 };
        match decoded.unwrap_or(byte) {
            b'/' | b'\\' => {
                if !others && (dots == 1 || dots == 2) {
                    return true;
                }
                (dots, others) = (0, false);
            }
            b'.' => dots += 1,
            _ => others = true,
        }
    }
    !others && (dots == 1 || dots == 2)
}

fn encoded(hex: &[u8]) -> Option<u8> {
    let digit = |at: usize| hex.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    Some((digit(0)? * 16 + digit(1)?) as u8)
}

/// A topic's template: literal segments, parameters, and at the end perhaps `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
}

/// What the variable parts of a template stood for in one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captures<'p> {
    /// Values of the parameters, in their order.
    pub parameters: Vec<&'p str>,
    /// What `*` stood for, without the `/` before it; empty where the template has none.
    pub rest: &'p str,
}

impl Pattern {
    /// Reads a template such as `/rooms/{room}/*`. The error is a sentence.
    pub fn parse(topic: &str) -> Result<Self, String> {
        let form = "a topic is / or segments such as /rooms, /rooms/{room} or /rooms/*";
        let refuse = |fault: &str| Err(format!("the topic {topic:?} {fault}; {form}"));
        if topic.len() > PATH_BYTES_MAX {
            return Err(format!("the topic has more than {PATH_BYTES_MAX} bytes; shorten it"));
        }
        let Some(path) = topic.strip_prefix('/') else { return refuse("does not begin with /") };
        let mut pattern = Self { segments: Vec::new(), open: false };
        let mut texts = path.split('/').peekable();
        while let Some(text) = texts.next() {
            if text.is_empty() && pattern.segments.is_empty() && texts.peek().is_none() {
                break; // the topic / : the context itself
            }
            if text == "*" && texts.peek().is_none() {
                pattern.open = true;
            } else if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
                if name.is_empty() || !name.bytes().all(plain) {
                    return refuse("has a parameter whose name is not letters, digits, _ and -");
                }
                if pattern.parameter(name).is_some() {
                    return refuse("has two parameters of one name");
                }
                pattern.segments.push(Segment::Parameter(name.into()));
            } else if let Some(fault) = segment_fault(text) {
                return refuse(fault);
            } else {
                pattern.segments.push(Segment::Literal(text.into()));
            }
        }
        Ok(pattern)
    }

    /// The template when nothing in it is variable: what follows the context, or nothing for `/`.
    pub fn literal(&self) -> Option<String> {
        let mut path = String::new();
        for segment in &self.segments {
            let Segment::Literal(text) = segment else { return None };
            path.push('/');
            path.push_str(text);
        }
        (!self.open).then_some(path)
    }

    /// The template with nameless parameters. Two templates of one shape match the same paths.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for segment in &self.segments {
            shape.push('/');
            shape.push_str(match segment {
                Segment::Literal(text) => text,
                Segment::Parameter(_) => "{}",
            });
        }
        shape.push_str(if self.open { "/*" } else { "" });
        shape
    }

    /// Orders templates as they are tried: exact, then parameters, then `*`, of these the longest first; among equals
    /// the one whose literal segments come earlier.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let variable = |segment: &Segment| matches!(segment, Segment::Parameter(_));
        let kind = |pattern: &Self| (pattern.open, pattern.segments.iter().any(variable));
        (self.open.cmp(&other.open))
            .then_with(|| {
                if self.open { other.segments.len().cmp(&self.segments.len()) } else { kind(self).cmp(&kind(other)) }
            })
            .then_with(|| self.segments.iter().map(variable).cmp(other.segments.iter().map(variable)))
            .then_with(|| self.shape().cmp(&other.shape()))
    }

    /// Compares with what follows the context in a path: empty, or beginning with `/`.
    ///
    /// `/rooms/*` also matches `/rooms`, its `*` being empty. A parameter stands for one segment that is not empty.
    pub fn matches<'p>(&self, path: &'p str) -> Option<Captures<'p>> {
        let mut captures = Captures::default();
        let mut left = path;
        for segment in &self.segments {
            let after = left.strip_prefix('/')?;
            let (text, behind) = after.split_at(after.find('/').unwrap_or(after.len()));
            match segment {
                Segment::Literal(literal) if literal == text => {}
                Segment::Parameter(_) if !text.is_empty() => captures.parameters.push(text),
                _ => return None,
            }
            left = behind;
        }
        if self.open {
            captures.rest = left.strip_prefix('/').unwrap_or(left);
            Some(captures)
        } else {
            left.is_empty().then_some(captures)
        }
    }

    /// Whether nothing but the context itself, or anything below it too, can match: what an exact context can reach.
    pub(super) fn matches_the_bare_context(&self) -> bool {
        self.segments.is_empty()
    }

    /// Where a parameter stands among [`Captures::parameters`].
    pub fn parameter(&self, name: &str) -> Option<usize> {
        let mut parameters = self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(parameter) => Some(parameter),
            Segment::Literal(_) => None,
        });
        parameters.position(|parameter| parameter == name)
    }
}

/// What a topic's sessions ask of the endpoint: a path in which the topic's variable parts may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(usize),
    Rest,
}

impl Mapping {
    /// Reads a mapping such as `/v2/{room}/*` of this topic. The error is a sentence.
    pub fn parse(mapping: &str, topic: &Pattern) -> Result<Self, String> {
        let refuse = |fault: &str| Err(format!("the mapping {mapping:?} {fault}"));
        if mapping.len() > PATH_BYTES_MAX {
            return Err(format!("the mapping has more than {PATH_BYTES_MAX} bytes; shorten it"));
        }
        if !mapping.starts_with('/') {
            return refuse("does not begin with /; it is appended to the endpoint's path");
        }
        let (mut parts, mut fixed) = (Vec::new(), String::new());
        let mut left = mapping;
        while let Some(at) = left.find(['{', '*']) {
            let (text, behind) = left.split_at(at);
            push_text(&mut parts, &mut fixed, text);
            if let Some(behind) = behind.strip_prefix('*') {
                if !topic.open {
                    return refuse("uses *, but its topic does not end with /*");
                }
                parts.push(Part::Rest);
                left = behind;
            } else {
                let Some((name, behind)) = behind[1..].split_once('}') else {
                    return refuse("has a { without its }");
                };
                let Some(index) = topic.parameter(name) else {
                    return refuse(&format!("uses the parameter {{{name}}}, which its topic does not have"));
                };
                parts.push(Part::Parameter(index));
                left = behind;
            }
        }
        push_text(&mut parts, &mut fixed, left);
        if let Some(fault) = fixed.split('/').find_map(text_fault) {
            return refuse(fault);
        }
        if has_dot_segment(&fixed) {
            return refuse("has a segment that is . or .., or may become one");
        }
        Ok(Self { parts })
    }

    /// The path for these captures, beginning with `/`; or nothing, where all of it was an empty `*`.
    ///
    /// An empty `*` takes the slash before it along: of `/files/*` it leaves `/files`.
    pub fn fill(&self, captures: &Captures<'_>) -> String {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Parameter(index) => path.push_str(captures.parameters.get(*index).copied().unwrap_or_default()),
                Part::Rest if captures.rest.is_empty() && path.ends_with('/') => {
                    path.pop();
                }
                Part::Rest => path.push_str(captures.rest),
            }
        }
        path
    }
}

fn push_text(parts: &mut Vec<Part>, fixed: &mut String, text: &str) {
    fixed.push_str(text);
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Target;

    fn api(context: &str, version: &str, default_version: bool) -> Api {
        let target = Target::Upstream("u".into());
        Api { default_version, ..Api::new("a", version, context, target) }
    }

    #[test]
    fn a_version_stands_in_the_context_or_follows_it() {
        for (context, version, path, default) in [
            ("/chat", "", "/chat", None),
            ("/chat", "v1", "/chat/v1", Some("/chat")),
            ("/", "", "/", None),
            ("/", "v1", "/v1", Some("/")),
            ("/{version}", "v1", "/v1", Some("/")),
            ("/chat/{version}/live", "1.0", "/chat/1.0/live", Some("/chat/live")),
        ] {
            assert_eq!(api(context, version, true).path(), path, "{context} {version}");
            assert_eq!(api(context, version, true).default_path().as_deref(), default, "{context} {version}");
            assert_eq!(api(context, version, false).default_path(), None);
        }
    }

    #[test]
    fn a_dot_segment_is_seen_through_every_disguise() {
        for path in
            ["/.", "/..", "/a/../b", "/a/./b", "/a/%2e%2E/b", "/a/.%2e", "/a%2f..%2fb", "/a/..\\b", "/a%5C..%5Cb", ".."]
        {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["", "/", "/a.b", "/...", "/.well-known", "/a..", "/%2e%2e%2e", "/%zz..", "/a%2fb", "/..%", "/%"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn templates_match_whole_segments() {
        for (topic, path, expected) in [
            ("/", "", Some((vec![], ""))),
            ("/", "/a", None),
            ("/*", "", Some((vec![], ""))),
            ("/*", "/a/b", Some((vec![], "a/b"))),
            ("/*", "//a", Some((vec![], "/a"))),
            ("/rooms", "/rooms", Some((vec![], ""))),
            ("/rooms", "/roomsy", None),
            ("/rooms/*", "/rooms", Some((vec![], ""))),
            ("/rooms/*", "/rooms/1/2", Some((vec![], "1/2"))),
            ("/rooms/*", "/roomsy", None),
            ("/rooms/{room}", "/rooms/7", Some((vec!["7"], ""))),
            ("/rooms/{room}", "/rooms/", None),
            ("/rooms/{room}", "/rooms/7/8", None),
            ("/{a}/x/{b}/*", "/1/x/2/3/4", Some((vec!["1", "2"], "3/4"))),
        ] {
            let captures = Pattern::parse(topic).unwrap().matches(path).map(|found| (found.parameters, found.rest));
            assert_eq!(captures, expected, "{topic} {path}");
        }
    }

    #[test]
    fn exact_comes_before_parameters_before_the_longest_star() {
        let topics = ["/*", "/a/{x}", "/a/*", "/{y}/b", "/a/b", "/", "/{x}/b/*", "/a/b/*", "/{x}/{y}"];
        let mut patterns: Vec<_> = topics.iter().map(|topic| Pattern::parse(topic).unwrap()).collect();
        patterns.sort_by(Pattern::precedence);
        let shapes: Vec<_> = patterns.iter().map(Pattern::shape).collect();
        assert_eq!(shapes, ["", "/a/b", "/a/{}", "/{}/b", "/{}/{}", "/a/b/*", "/{}/b/*", "/a/*", "/*"]);
    }

    #[test]
    fn mappings_are_filled_with_what_the_topic_captured() {
        for (topic, mapping, path, filled) in [
            ("/*", "/app/*", "/a/b", "/app/a/b"),
            ("/*", "/app/*", "", "/app"),
            ("/*", "/*", "", ""),
            ("/*", "/fixed", "/a", "/fixed"),
            ("/rooms/{room}", "/r-{room}/in", "/rooms/7", "/r-7/in"),
            ("/{a}/{b}/*", "/{b}/{a}/*", "/1/2/3", "/2/1/3"),
        ] {
            let pattern = Pattern::parse(topic).unwrap();
            let captures = pattern.matches(path).unwrap();
            assert_eq!(Mapping::parse(mapping, &pattern).unwrap().fill(&captures), filled, "{topic} {mapping} {path}");
        }
    }
}
