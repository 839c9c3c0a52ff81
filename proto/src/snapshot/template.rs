//! Templates of on-upgrade policies: text in which `{user}`, `{header.NAME}` and the like stand for what is known of a
//! client; and patterns, in which `*` stands for any characters.
//!
//! Reads and fills. Where values come from is the caller's; what a filled template may be is decided here for URLs, and by
//! whoever writes it for headers.

use std::borrow::Cow;

use super::EndpointUrl;
use super::path::has_dot_segment;
use crate::http::list::is_token;
use crate::http::percent;
use crate::http::target::check_path;
use crate::limits::TEMPLATE_BYTES_MAX;

const FORM: &str = "use {user}, {application}, {client_address}, {host}, {header.NAME}, {claim.NAME} or \
    {topic.PARAMETER}, and {{ for a brace";

/// A template, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

/// What a template can say of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// The user.
    User,
    /// The application.
    Application,
    /// The address it comes from.
    ClientAddress,
    /// The host that it asks for, without a port.
    Host,
    /// A header of its request.
    Header(Box<str>),
    /// A claim of its token.
    Claim(Box<str>),
    /// What a parameter of the topic stands for.
    Topic(Box<str>),
}

impl Template {
    /// Reads a template. The error is a sentence.
    pub fn parse(template: &str) -> Result<Self, String> {
        if template.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("the template has {} bytes; {TEMPLATE_BYTES_MAX} are allowed", template.len()));
        }
        if template.contains(|character: char| character.is_control()) {
            return Err(format!("the template {template:?} has characters that cannot be seen; leave them out"));
        }
        let refuse = |fault: &str| Err(format!("the template {template:?} {fault}; {FORM}"));
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut left = template;
        while let Some(at) = left.find(['{', '}']) {
            text.push_str(&left[..at]);
            let brace = &left[at..=at];
            left = &left[at + 1..];
            if let Some(behind) = left.strip_prefix(brace) {
                text.push_str(brace);
                left = behind;
                continue;
            }
            if brace == "}" {
                return refuse("has a } without its {");
            }
            let Some((name, behind)) = left.split_once('}') else { return refuse("has a { without its }") };
            let Some(variable) = Variable::parse(name) else {
                return refuse(&format!("has {{{name}}}, which stands for nothing"));
            };
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(Part::Variable(variable));
            left = behind;
        }
        text.push_str(left);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Self { parts })
    }

    /// What it asks for.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(variable) => Some(variable),
            Part::Text(_) => None,
        })
    }

    /// The text with its values; nothing where one of them cannot be had, or too much comes of it.
    pub fn fill<'v>(&self, mut value: impl FnMut(&Variable) -> Option<Cow<'v, str>>) -> Option<String> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Variable(variable) => filled.push_str(&value(variable)?),
            }
            if filled.len() > TEMPLATE_BYTES_MAX {
                return None;
            }
        }
        Some(filled)
    }

    /// The same for a URL: values are percent-encoded, so that none is more than a piece of one segment, label or query
    /// parameter; what came percent-encoded with the path is not encoded again.
    pub fn fill_url<'v>(&self, mut value: impl FnMut(&Variable) -> Option<Cow<'v, str>>) -> Option<String> {
        self.fill(|variable| {
            let value = value(variable)?;
            let plain = match variable {
                Variable::Topic(_) => percent::decode_leniently(value.as_bytes()),
                _ => Cow::Borrowed(value.as_bytes()),
            };
            (!plain.iter().any(u8::is_ascii_control)).then(|| Cow::Owned(percent::encode(&plain, b"")))
        })
    }
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        Some(match name.split_once('.') {
            None => match name {
                "user" => Self::User,
                "application" => Self::Application,
                "client_address" => Self::ClientAddress,
                "host" => Self::Host,
                _ => return None,
            },
            Some(("header", header)) if is_token(header.as_bytes()) => Self::Header(header.into()),
            Some(("claim", claim)) if !claim.is_empty() => Self::Claim(claim.into()),
            Some(("topic", parameter)) if !parameter.is_empty() => Self::Topic(parameter.into()),
            _ => return None,
        })
    }
}

/// A URL that a template made, below one of the endpoints that it may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeTarget<'a> {
    /// The endpoint that allows it.
    pub allowed: &'a EndpointUrl,
    /// What the path has behind the endpoint's; empty, or beginning with `/`.
    pub rest: String,
    /// The query.
    pub query: Option<String>,
}

impl<'a> MadeTarget<'a> {
    /// Reads a URL, and finds the first endpoint that allows it: one of the same scheme, host and port whose path is its
    /// path, or a whole-segment prefix of it. A path that could mean another place to another reader is nowhere.
    pub fn read(url: &str, allowed: &'a [EndpointUrl]) -> Option<Self> {
        let made: EndpointUrl = url.parse().ok()?;
        if check_path(made.path.as_bytes()).is_err() || has_dot_segment(&made.path) {
            return None;
        }
        allowed.iter().find_map(|allowed| {
            let rest = made.path.strip_prefix(allowed.path.strip_suffix('/').unwrap_or(&allowed.path))?;
            let is_below = rest.is_empty() || rest.starts_with('/');
            let same = made.secure == allowed.secure && is_same_place(&made, allowed);
            (is_below && same).then(|| {
                let rest = if made.path == allowed.path { "" } else { rest };
                Self { allowed, rest: rest.into(), query: made.query.clone() }
            })
        })
    }
}

fn is_same_place(one: &EndpointUrl, other: &EndpointUrl) -> bool {
    use super::Place::Tcp;
    match (&one.place, &other.place) {
        (Tcp { host, port }, Tcp { host: other_host, port: other_port }) => {
            port == other_port && host.eq_ignore_ascii_case(other_host)
        }
        _ => false,
    }
}

/// What is wrong with a template of a URL: with a digit in the place of every variable, which may stand anywhere, it must
/// be one.
pub(super) fn url_template_problem(template: &Template) -> Option<String> {
    let tried = template.fill(|_| Some(Cow::Borrowed("1"))).unwrap_or_default();
    if !tried.starts_with("ws://") && !tried.starts_with("wss://") {
        return Some("the template of a URL begins with ws:// or wss://; write the scheme out".into());
    }
    let url = match tried.parse::<EndpointUrl>() {
        Ok(url) => url,
        Err(fault) => return Some(fault.into()),
    };
    let is_sound = check_path(url.path.as_bytes()).is_ok() && !has_dot_segment(&url.path);
    (!is_sound).then(|| "the path of the template has an empty, . or .. segment, or one that may become so".into())
}

/// A pattern in which `*` stands for any characters, also none. It is compared with the whole of a text, in time that
/// grows with both and not with their product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    first: Box<str>,
    /// None: the pattern has no `*`.
    others: Option<Others>,
}

/// What stands behind the first `*` of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Others {
    /// Between two of them.
    between: Box<[Box<str>]>,
    /// Behind the last one.
    last: Box<str>,
}

impl Glob {
    /// Any text is a pattern.
    pub fn new(pattern: &str) -> Self {
        let Some((first, between, last)) = pieces(pattern) else { return Self { first: pattern.into(), others: None } };
        let between = between.split('*').filter(|piece| !piece.is_empty()).map(Into::into).collect();
        Self { first: first.into(), others: Some(Others { between, last: last.into() }) }
    }

    /// Whether the whole text is like this pattern, for one that is used once: nothing is built.
    pub fn matches_pattern(pattern: &str, text: &str) -> bool {
        let Some((first, between, last)) = pieces(pattern) else { return pattern == text };
        fits(text, first, between.split('*'), last)
    }

    /// Whether the whole text is like it.
    pub fn matches(&self, text: &str) -> bool {
        let Some(Others { between, last }) = &self.others else { return *self.first == *text };
        fits(text, &self.first, between.iter().map(|piece| &**piece), last)
    }
}

/// What stands before the first `*` of a pattern, between that and the last, and behind; none if it has no `*`.
fn pieces(pattern: &str) -> Option<(&str, &str, &str)> {
    let (first, rest) = pattern.split_once('*')?;
    let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    Some((first, between, last))
}

fn fits<'p>(text: &str, first: &str, mut between: impl Iterator<Item = &'p str>, last: &str) -> bool {
    let Some(behind) = text.strip_prefix(first) else { return false };
    let Some(mut left) = behind.strip_suffix(last) else { return false };
    // The earliest place of each piece leaves the most room for the next.
    between.all(|piece| {
        let found = left.find(piece);
        left = found.map_or("", |at| &left[at + piece.len()..]);
        found.is_some()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(variable: &Variable) -> Option<Cow<'static, str>> {
        Some(match variable {
            Variable::User => "alice".into(),
            Variable::Application => "app".into(),
            Variable::ClientAddress => "192.0.2.1".into(),
            Variable::Host => "chat.example.com".into(),
            Variable::Header(name) => format!("<{name}>").into(),
            Variable::Claim(name) if &**name == "none" => return None,
            Variable::Claim(name) => format!("c/{name}").into(),
            Variable::Topic(name) => format!("%41{name}").into(),
        })
    }

    #[test]
    fn templates_are_filled() {
        for (template, filled) in [
            ("", Some("")),
            ("plain", Some("plain")),
            ("{user}", Some("alice")),
            ("{user}@{application}", Some("alice@app")),
            ("{client_address} {host}", Some("192.0.2.1 chat.example.com")),
            ("{header.X-A}{claim.a.b}{topic.room}", Some("<X-A>c/a.b%41room")),
            ("{claim.https://example.com/role}", Some("c/https://example.com/role")),
            ("{{user}}", Some("{user}")),
            ("{{{user}}}", Some("{alice}")),
            ("{claim.none}", None),
        ] {
            assert_eq!(Template::parse(template).unwrap().fill(value).as_deref(), filled, "{template}");
        }
    }

    #[test]
    fn templates_that_stand_for_nothing_are_refused() {
        for template in [
            "{",
            "}",
            "{}",
            "{users}",
            "{header.}",
            "{header.a b}",
            "{claim.}",
            "{topic.}",
            "a}",
            "{user",
            "{a.b}",
            "\n",
        ] {
            assert!(Template::parse(template).is_err(), "{template:?}");
        }
        assert!(Template::parse(&"x".repeat(TEMPLATE_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn what_comes_of_a_template_is_bounded() {
        let template = Template::parse("{user}").unwrap();
        let long = |bytes: usize| template.fill(|_| Some("x".repeat(bytes).into()));
        assert!(long(TEMPLATE_BYTES_MAX).is_some() && long(TEMPLATE_BYTES_MAX + 1).is_none());
    }

    #[test]
    fn values_are_pieces_of_a_url_and_no_more() {
        let template = Template::parse("ws://h/{header.a}?q={header.a}").unwrap();
        let url = |value: &'static str| template.fill_url(|_| Some(value.into()));
        assert_eq!(url("a/b?c#d&e=f @").unwrap(), "ws://h/a%2Fb%3Fc%23d%26e%3Df%20%40?q=a%2Fb%3Fc%23d%26e%3Df%20%40");
        assert_eq!(url("é%41").unwrap(), "ws://h/%C3%A9%2541?q=%C3%A9%2541");
        assert_eq!(url("a\r\nb"), None);
        assert_eq!(url("\u{7f}"), None);
        let template = Template::parse("ws://h/{topic.room}").unwrap();
        assert_eq!(template.fill_url(|_| Some("caf%C3%A9;x".into())).unwrap(), "ws://h/caf%C3%A9%3Bx");
        assert_eq!(template.fill_url(|_| Some("%0d%0a".into())), None);
    }

    fn allowed() -> Vec<EndpointUrl> {
        ["ws://h/", "wss://secure.internal/tenants", "ws://port:81/a/"].map(|url| url.parse().unwrap()).into()
    }

    #[test]
    fn what_a_template_makes_lies_below_an_allowed_endpoint() {
        let allowed = allowed();
        for (url, expected) in [
            ("ws://h", Some((0, "", None))),
            ("ws://H:80/x?y=1", Some((0, "/x", Some("y=1")))),
            ("wss://secure.internal/tenants", Some((1, "", None))),
            ("wss://secure.internal/tenants/a", Some((1, "/a", None))),
            ("wss://secure.internal/tenants/", Some((1, "/", None))),
            ("ws://port:81/a/", Some((2, "", None))),
            ("ws://port:81/a/b", Some((2, "/b", None))),
            ("wss://secure.internal/tenantsx", None),
            ("wss://secure.internal/tenants/../admin", None),
            ("wss://secure.internal/tenants/%2e%2e/admin", None),
            ("wss://secure.internal/tenants/a%2fb", None),
            ("wss://secure.internal/tenants//a", None),
            ("wss://secure.internal/", None),
            ("ws://secure.internal/tenants", None),
            ("wss://secure.internal:444/tenants", None),
            ("wss://secure.internal.evil/tenants", None),
            ("wss://evil%2Fsecure.internal/tenants", None),
            ("wss://user@secure.internal/tenants", None),
            ("http://h/", None),
            ("ws+unix:/h:/", None),
            ("", None),
        ] {
            let made = MadeTarget::read(url, &allowed);
            let expected = expected.map(|(at, rest, query): (usize, &str, Option<&str>)| MadeTarget {
                allowed: &allowed[at],
                rest: rest.into(),
                query: query.map(Into::into),
            });
            assert_eq!(made, expected, "{url}");
        }
    }

    #[test]
    fn templates_of_urls_are_urls() {
        let problem = |template: &str| url_template_problem(&Template::parse(template).unwrap());
        for sound in [
            "ws://{header.tenant}.internal/",
            "wss://h:81/{topic.room}/x?u={user}",
            "ws://[::1]/{user}",
            "ws://{host}:{user}",
        ] {
            assert_eq!(problem(sound), None, "{sound}");
        }
        for unsound in
            ["{user}", "http://h/", "ws://", "ws://h/../{user}", "ws://h//{user}", "ws://h/#{user}", "ws://a@h"]
        {
            assert!(problem(unsound).is_some(), "{unsound}");
        }
    }

    #[test]
    fn patterns_are_compared_with_the_whole() {
        for (pattern, likes, others) in [
            ("", &[""][..], &["a"][..]),
            ("a", &["a"], &["", "aa", "A", "ba"]),
            ("*", &["", "a", "*"], &[]),
            ("a*", &["a", "ab"], &["ba", ""]),
            ("*a", &["a", "ba"], &["ab", ""]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("*.example.com", &["x.example.com"], &["example.com", "x.example.com.evil"]),
            ("a*b*c", &["abc", "axbxc", "abbc"], &["acb", "ac"]),
            ("**a**", &["a", "bab"], &["", "b"]),
            ("é*", &["éa"], &["e"]),
            ("CN=*,O=Acme", &["CN=a,O=Acme"], &["CN=a,O=Acme,C=DE"]),
        ] {
            let glob = Glob::new(pattern);
            assert!(likes.iter().all(|text| glob.matches(text)), "{pattern} {likes:?}");
            assert!(!others.iter().any(|text| glob.matches(text)), "{pattern} {others:?}");
        }
    }

    /// As slow as it is plain.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', pattern_left)), None) => naive(pattern_left, text),
            (Some(('*', pattern_left)), Some((_, text_left))) => naive(pattern_left, text) || naive(pattern, text_left),
            (Some((one, pattern_left)), Some((other, text_left))) => one == other && naive(pattern_left, text_left),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_agree_with_the_naive_reading(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            let (chars, of_text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(Glob::new(&pattern).matches(&text), naive(&chars, &of_text));
            prop_assert_eq!(Glob::matches_pattern(&pattern, &text), naive(&chars, &of_text));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = Template::parse(&text);
            let _ = MadeTarget::read(&text, &allowed());
        }

        #[test]
        fn text_with_doubled_braces_means_itself(text in "[a-z{}é ]{0,40}") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(Template::parse(&doubled).unwrap().fill(|_| None), Some(text));
        }

        /// Whatever a client says, what comes of the template is where the operator allowed it, or nowhere.
        #[test]
        fn no_value_leads_elsewhere(value in any::<String>(), other in "[./@:?#%\\\\a-z0-9]{0,12}") {
            let allowed: Vec<EndpointUrl> = vec!["ws://t.internal:9000/tenants".parse().unwrap()];
            let template = Template::parse("ws://t.internal:9000/tenants/{user}/x?u={application}").unwrap();
            for value in [value, other] {
                let filled = template.fill_url(|_| Some(value.as_str().into()));
                let Some(made) = filled.as_deref().and_then(|url| MadeTarget::read(url, &allowed)) else { continue };
                prop_assert_eq!(made.rest.matches('/').count(), 2);
                prop_assert!(made.rest.ends_with("/x") && !has_dot_segment(&made.rest));
                let query = made.query.unwrap();
                prop_assert!(query.starts_with("u=") && !query.contains(['&', '#', ' ', '/']));
                prop_assert_eq!(query.matches('=').count(), 1);
            }
            let template = Template::parse("ws://{host}:9000/tenants").unwrap();
            let filled = template.fill_url(|_| Some("t.internal:9000/tenants?".into()));
            prop_assert!(filled.as_deref().and_then(|url| MadeTarget::read(url, &allowed)).is_none());
        }
    }
}
