//! Request and response heads, and what is written of them.

use proptest::prelude::*;
use proto::http::{HeadFault, RequestHead, RequestScan, ResponseHead, ResponseScan};
use proto::parse::Parse;
use proto::ws::extension::{self, Deflate, Extension};
use proto::ws::handshake::{Key, accept_key};

/// Lines that are sound, and lines that are not.
fn lines() -> impl Strategy<Value = String> {
    let sound = ("[A-Za-z][A-Za-z0-9-]{0,12}", "[ -~]{0,24}").prop_map(|(name, value)| format!("{name}: {value}"));
    prop_oneof![
        8 => sound,
        1 => prop::sample::select(vec![
            "Host: a", "Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked", "Connection: close, x",
            " folded", "A : b", ": b", "A\tb: c", "A: b\rc", "A: b\nc", "A: \0", "A", "",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ]
}

fn heads(first: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    (first, prop::collection::vec(lines(), 0..6), prop::collection::vec(any::<u8>(), 0..6)).prop_map(
        |(first, lines, behind)| {
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            [format!("{first}\r\n{lines}\r\n").into_bytes(), behind].concat()
        },
    )
}

fn request_lines() -> impl Strategy<Value = String> {
    let target = prop_oneof![4 => "(/[a-z.%0-9;]{0,6}){1,4}(\\?[ -~]{0,6})?", 1 => "[ -~]{0,12}"];
    ("(\r\n)?(GET|POST|get|\\*)", target, "HTTP/(1\\.[01]|[0-9]\\.[0-9])")
        .prop_map(|(method, target, version)| format!("{method} {target} {version}"))
}

fn status_lines() -> impl Strategy<Value = String> {
    ("(HTTP/1.1 10[023] x\r\n\r\n)?HTTP/1\\.[01]", "[0-9]{2,4}", "[ -~]{0,8}")
        .prop_map(|(version, status, reason)| format!("{version} {status} {reason}"))
}

/// Feeds pieces of these lengths, in turn, until something other than `Partial` is said.
fn in_pieces<T>(
    bytes: &[u8],
    lengths: &[usize],
    mut feed: impl FnMut(&[u8]) -> Result<Parse<T>, HeadFault>,
) -> Result<Parse<T>, HeadFault> {
    let mut end = 0;
    for length in lengths.iter().cycle() {
        end = (end + length).min(bytes.len());
        match feed(&bytes[..end]) {
            Ok(Parse::Partial { need }) if end < bytes.len() => assert!(need > end),
            answer => return answer,
        }
    }
    unreachable!("there are lengths")
}

proptest! {
    #[test]
    fn requests_read_the_same_wherever_they_are_cut(
        bytes in heads(request_lines()),
        lengths in prop::collection::vec(1..40_usize, 1..8),
    ) {
        let mut scan = RequestScan::new();
        prop_assert_eq!(in_pieces(&bytes, &lengths, |buf| scan.feed(buf)), RequestHead::parse(&bytes));
    }

    #[test]
    fn responses_read_the_same_wherever_they_are_cut(
        bytes in heads(status_lines()),
        lengths in prop::collection::vec(1..40_usize, 1..8),
    ) {
        let mut scan = ResponseScan::new();
        prop_assert_eq!(in_pieces(&bytes, &lengths, |buf| scan.feed(buf)), ResponseHead::parse(&bytes));
    }

    #[test]
    fn fields_are_read_as_they_were_written(
        fields in prop::collection::vec(("X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", "([!-~]([ -~\t]{0,20}[!-~])?)?"), 0..20),
    ) {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}:\t {value} \r\n")).collect();
        let bytes = format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes();
        let Ok(Parse::Complete(head, _)) = RequestHead::parse(&bytes) else { panic!("{}", bytes.escape_ascii()) };
        let read: Vec<_> = head.view(&bytes).headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
        let written: Vec<_> = fields.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn no_path_that_is_sound_leaves_its_place(path in "(/|\\.|%2[eE]|%2[fF]|;|a|%61|%5c){1,12}") {
        if proto::http::target::check_path(path.as_bytes()).is_ok() {
            // Read as the most forgiving server might: unescape, cut parameters, merge slashes, walk the dots.
            let plain = path.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/")
                .replace("%5c", "/").replace("%61", "a");
            let mut depth = 0;
            for segment in plain.split('/').map(|segment| segment.split(';').next().unwrap_or("")) {
                prop_assert!(segment != ".." && segment != ".", "{}", path);
                depth += 1;
            }
            prop_assert!(depth > 0 && !plain.contains("//"));
        }
    }

    #[test]
    fn keys_of_random_bytes_are_keys(bytes in any::<[u8; 16]>()) {
        let key = Key::from_random(bytes);
        prop_assert_eq!(Key::parse(key.as_bytes()), Some(key));
        prop_assert_eq!(key.accept(), accept_key(key.as_bytes()));
    }

    #[test]
    fn parameters_of_deflate_are_read_as_they_were_written(
        server_no_context_takeover in any::<bool>(),
        client_no_context_takeover in any::<bool>(),
        server_max_window_bits in prop::option::of(8..=15_u8),
        client_max_window_bits in prop::option::of(prop::option::of(8..=15_u8)),
    ) {
        let deflate = Deflate {
            server_no_context_takeover, client_no_context_takeover, server_max_window_bits, client_max_window_bits,
        };
        let written = deflate.to_string();
        prop_assert_eq!(extension::parse(std::iter::once(written.as_bytes())), Ok(vec![Extension::Deflate(deflate)]));
    }
}
