//! Single words of a configuration: names, hosts, origins, header names.
//!
//! Each function answers with what is wrong, as a sentence, or with nothing. Where a word stands is the caller's.

use crate::limits::{NAME_BYTES_MAX, WORD_BYTES_MAX};

/// Names (of APIs, versions, upstreams, listeners): ASCII letters and digits, `-`, `_` and `.`, but not `.` or `..`.
///
/// So a name is always one path segment, one word of a log line and a plain metric label, and `:` can join name and
/// version.
pub fn name_problem(what: &str, name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() {
        Some(format!("{what} is empty; give it 1 to {NAME_BYTES_MAX} characters"))
    } else if name.len() > NAME_BYTES_MAX {
        Some(format!("{what} has {} bytes; {NAME_BYTES_MAX} are allowed", name.len()))
    } else if !name.bytes().all(plain) || name == "." || name == ".." {
        Some(format!("{what} {name:?} is not made of letters, digits, -, _ and . only; rename it"))
    } else {
        None
    }
}

/// Hosts of an API: `chat.example.com`, `127.0.0.1`, or `*.example.com` for every host below.
pub fn host_problem(host: &str) -> Option<String> {
    let form = "a host is a name such as chat.example.com, or *.example.com for every host below it";
    let name = host.strip_prefix("*.").unwrap_or(host);
    if host == "*" {
        Some("the host * is not needed; leave hosts out to serve every host".into())
    } else if name.contains(':') {
        Some(format!("the host {host:?} has a port or is an IPv6 address; {form}"))
    } else if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Some(format!("the host {host:?} has upper-case letters; hosts are compared in lower case, write it so"))
    } else if is_host_name(name) {
        None
    } else {
        Some(format!("{host:?} is not a host; {form}"))
    }
}

fn is_host_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    name.len() <= 253 && name.split('.').all(label)
}

/// Names that TLS can ask for and certificates can cover: a DNS name without a wildcard (RFC 6066 §3), or an address.
pub fn server_name_problem(name: &str) -> Option<String> {
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    let lower = name.to_ascii_lowercase();
    let label = |label: &str| !label.starts_with('-') && !label.ends_with('-');
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let is_name =
        is_host_name(&lower) && lower.split('.').all(label) && !lower.rsplit('.').next().is_some_and(is_number);
    (!is_address && !is_name).then(|| {
        format!(
            "{name:?} is not a name that a certificate can cover; it is a DNS name such as chat.internal, or an address"
        )
    })
}

/// Origins, RFC 6454 §6.2: what a browser sends, so without a default port, a path or upper-case letters.
pub fn origin_problem(origin: &str) -> Option<String> {
    let form = "an origin is scheme://host or scheme://host:port, such as https://app.example.com";
    let refuse = |fault: &str| Some(format!("the origin {origin:?} {fault}; {form}"));
    if origin == "null" {
        return refuse("is what a page without an origin sends, and anybody can be that");
    }
    if origin == "*" {
        return Some("the origin * stands alone, and for an API only: every origin is allowed then".into());
    }
    if origin.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return refuse("has upper-case letters, which browsers do not send");
    }
    let Some((scheme, authority)) = origin.split_once("://") else { return refuse("has no ://") };
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if !scheme.starts_with(|first: char| first.is_ascii_lowercase()) || !scheme.bytes().all(in_scheme) {
        return refuse("has no sound scheme");
    }
    if authority.contains(['/', '?', '#', '@']) {
        return refuse("has more than a host and a port");
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return refuse("has no IPv6 address in its brackets");
            }
            match port.strip_prefix(':') {
                None if port.is_empty() => (None, None),
                None => return refuse("has something other than a port behind its host"),
                Some(port) => (None, Some(port)),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(authority), None),
        },
    };
    if host.is_some_and(|host| !is_host_name(host.strip_prefix("*.").unwrap_or(host))) {
        return refuse("has no sound host");
    }
    match (scheme, port) {
        (_, None) => None,
        ("http", Some("80")) | ("https", Some("443")) => {
            refuse("names the scheme's own port, which browsers leave out")
        }
        (_, Some(port)) => match port.parse::<u16>() {
            Ok(number) if number != 0 && number.to_string() == port => None,
            _ => refuse("has a port that is not a number from 1 to 65535"),
        },
    }
}

/// Headers that a configuration may not claim, because the handshake itself reads or writes them.
const OWNED_HEADERS: [&str; 22] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Header names, RFC 9110 §5.1, for those that are only read.
pub fn header_name_problem(header: &str) -> Option<String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_sound = !header.is_empty() && header.len() <= NAME_BYTES_MAX && header.bytes().all(token);
    (!is_sound).then(|| format!("{header:?} is not a header name; use letters, digits and -, at most {NAME_BYTES_MAX}"))
}

/// Header names that the gateway does not use otherwise.
pub fn header_problem(header: &str) -> Option<String> {
    if let Some(fault) = header_name_problem(header) {
        return Some(fault);
    }
    let lower = header.to_ascii_lowercase();
    let families = ["sec-websocket-", "proxy-"];
    let owned = OWNED_HEADERS.contains(&lower.as_str()) || families.into_iter().any(|family| lower.starts_with(family));
    owned.then(|| format!("the gateway itself uses the header {header}; choose another"))
}

/// Header names of the client's or the endpoint's own: tokens, and none of those that the handshake is made of.
pub fn free_header_problem(header: &str) -> Option<String> {
    let lower = header.to_ascii_lowercase();
    let is_free = ["authorization", "cookie", "origin"].contains(&lower.as_str());
    if is_free { None } else { header_problem(header) }
}

/// URLs that the gateway calls: `https://host:port/path`, or `http://`, without a user and a fragment.
pub fn http_url_problem(url: &str) -> Option<String> {
    let form = "write https://host/path, or http:// for a place that can be trusted";
    let refuse = |fault: &str| Some(format!("the URL {url:?} {fault}; {form}"));
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return refuse("begins with neither https:// nor http://");
    };
    if url.len() > WORD_BYTES_MAX {
        return Some(format!("a URL has at most {WORD_BYTES_MAX} bytes"));
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.contains('#') {
        return refuse("has a fragment, or characters that a URL does not have");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("a URL with a user or password would be shown in logs; leave them out".into());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if !is_host_name(&bare.to_ascii_lowercase()) && bare.parse::<std::net::IpAddr>().is_err() {
        return refuse("has no sound host");
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(0) | Err(_)) => refuse("has no sound port"),
        _ => None,
    }
}

/// Scopes, RFC 6749 §3.3.
pub fn scope_problem(scope: &str) -> Option<String> {
    let plain = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    let is_sound = !scope.is_empty() && scope.len() <= WORD_BYTES_MAX && scope.bytes().all(plain);
    (!is_sound).then(|| format!("{scope:?} is not a scope; use visible ASCII characters, without blanks, \" and \\"))
}

/// Names of claims.
pub fn claim_problem(name: &str) -> Option<String> {
    let fault = name.is_empty().then(|| "the claim's name is empty".into());
    fault.or_else(|| text_problem("the claim's name", name))
}

/// Text for people: bounded, and nothing in it that cannot be seen.
pub fn text_problem(what: &str, text: &str) -> Option<String> {
    if text.len() > WORD_BYTES_MAX {
        Some(format!("{what} has {} bytes; {WORD_BYTES_MAX} are allowed", text.len()))
    } else {
        text.chars().any(char::is_control).then(|| format!("{what} {text:?} has control characters; leave them out"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(problem: fn(&str) -> Option<String>, good: &[&str], bad: &[&str]) {
        for word in good {
            assert_eq!(problem(word), None, "{word:?}");
        }
        for word in bad {
            assert!(problem(word).is_some(), "{word:?}");
        }
    }

    #[test]
    fn names_are_one_plain_word() {
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        check(
            |name| name_problem("the name", name),
            &["a", "Chat-1.0_x", "..."],
            &["", ".", "..", "a/b", "a:b", "a b", "ä", "a\n", &long],
        );
    }

    #[test]
    fn hosts_are_names_or_wildcards_of_a_whole_label() {
        check(
            host_problem,
            &["a", "chat.example.com", "*.example.com", "127.0.0.1", "xn--bcher-kva.example"],
            &["", "*", "*.", "a.*", "*a.b", "Chat.example.com", "a:80", "a..b", ".a", "a.", "[::1]", "a/b", "*.*.b"],
        );
    }

    #[test]
    fn server_names_are_names_or_addresses() {
        check(
            server_name_problem,
            &["a", "Chat.internal", "a_b.example", "127.0.0.1", "::1", "3com.example", "1.example"],
            &["", "*.a", "a:80", "[::1]", "-a.b", "a-.b", "a.", "a..b", "10.0.0.256", "a.7", "a b"],
        );
    }

    #[test]
    fn origins_are_what_a_browser_sends() {
        check(
            origin_problem,
            &[
                "https://a.example",
                "http://localhost:3000",
                "https://*.a.example",
                "http://[::1]:8080",
                "http://[::1]",
                "chrome-extension://abcdefgh",
            ],
            &[
                "null",
                "*",
                "a.example",
                "https://",
                "https://a/",
                "https://a:443",
                "http://a:80",
                "https://A.example",
                "https://a:0",
                "https://a:070",
                "https://a:99999",
                "https://u@a",
                "1s://a",
                "https://*",
                "http://[zz]",
                "http://[::1]x",
            ],
        );
    }

    #[test]
    fn headers_are_tokens_that_the_gateway_does_not_own() {
        check(
            header_problem,
            &["X-Request-Id", "x_env"],
            &["", "a b", "a:", "Host", "Sec-WebSocket-Key", "X-Forwarded-For", "Transfer-Encoding", "ü"],
        );
    }
}
