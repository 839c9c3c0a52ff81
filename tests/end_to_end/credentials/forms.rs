//! Which credential counts when there are several, what of them travels on to the endpoint, and from where a key may come.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Carrier, Keys, name_and_password, token};
use crate::kit::tokens::tampered;
use crate::kit::{Gateway, Head, People, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until};

on_both_drivers!(
    the_first_that_is_there_decides,
    forms_that_are_not_accepted_are_the_endpoints_business,
    credentials_do_not_travel_on_unless_asked_for,
    a_token_among_subprotocols_is_neither_offered_nor_agreed_to,
    a_key_is_good_from_its_addresses_and_pages_only,
    names_of_headers_and_cookies_can_be_others,
);

const ALL_FORMS: &str = "accept: [client_certificate, personal_access_token, cookie, basic, subprotocol, api_key, \
    query_token, bearer]";

fn people(keys: &Keys) -> People {
    keys.people()
        .application("subscribed", "")
        .subscriptions("subscribed", &["chat"])
        .key("good", "subscribed", "good-key", "")
        .user("alice", "application: subscribed")
}

fn chat(variant: Variant, keys: &Keys, authentication: &str) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant)
        .api_to("chat", &upstream.url("/"), &format!("authentication: {{ {authentication} }}"))
        .people(people(keys))
        .start();
    (gateway, upstream)
}

/// A request with two credentials, each in its place: fields are joined where they are the same.
fn both(first: &Upgrade, second: &Upgrade) -> Upgrade {
    first.clone().merged(second)
}

fn the_first_that_is_there_decides(variant: Variant) {
    let keys = Keys::new();
    let (gateway, upstream) = chat(variant, &keys, ALL_FORMS);
    let good_token = token("subscribed").sign(&keys.ed);
    let bad_token = tampered(&good_token);
    let password = name_and_password("alice");
    let credentials = |carrier: Carrier| match carrier {
        Carrier::KeyHeader | Carrier::KeyQuery => ("good-key", "bad-key"),
        Carrier::Basic => (password.as_str(), "alice:wrong"),
        _ => (good_token.as_str(), bad_token.as_str()),
    };
    // One of each form, in the order in which they are looked for, whatever the order of the API's list.
    let order = [
        Carrier::Bearer,
        Carrier::QueryToken,
        Carrier::KeyHeader,
        Carrier::Subprotocol,
        Carrier::Cookie,
        Carrier::PersonalHeader,
    ];
    let mut cases = 0;
    for (at, first) in order.iter().enumerate() {
        for second in &order[at + 1..] {
            for (first_is_good, second_is_good) in [(false, true), (true, false)] {
                let choose = |carrier: Carrier, is_good: bool| {
                    let (good, bad) = credentials(carrier);
                    carrier.request("/chat", if is_good { good } else { bad })
                };
                let request = both(&choose(*first, first_is_good), &choose(*second, second_is_good));
                let mut client = gateway.connect();
                client.send(&request.encode());
                if first_is_good {
                    upstream.accept().agree();
                    client.upgraded();
                } else {
                    let answer = client.refused();
                    assert_eq!(answer.status, 401, "{first:?} before {second:?}: {}", answer.head);
                }
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 30);
    // Bearer and Basic share a header: which it is, its first word says.
    for (value, status) in [
        (format!("Basic {}", STANDARD.encode(&password)), 101),
        (format!("Basic {}", STANDARD.encode("alice:wrong")), 401),
    ] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").with("Authorization", &value).with("PRIVATE-TOKEN", &good_token).encode());
        if status == 101 {
            upstream.accept().agree();
        }
        assert_eq!(client.head().status(), status, "{value}");
    }
}

fn forms_that_are_not_accepted_are_the_endpoints_business(variant: Variant) {
    let keys = Keys::new();
    let (gateway, upstream) = chat(variant, &keys, "accept: [api_key]");
    let request = Upgrade::to("/chat?access_token=theirs&apikey=good-key")
        .with("Authorization", "Bearer theirs")
        .with("Cookie", "apimlAuthenticationToken=theirs")
        .with("Sec-WebSocket-Protocol", "bearer.theirs");
    let mut client = gateway.connect();
    client.send(&request.encode());
    let head = upstream.accept().agree();
    client.upgraded();
    // But for a token in the query: no address that an endpoint's log may have holds one.
    assert_eq!(head.target(), "/", "{head}");
    assert_eq!(head.header("Authorization"), Some("Bearer theirs"), "{head}");
    assert_eq!(head.header("Cookie"), Some("apimlAuthenticationToken=theirs"), "{head}");
    assert_eq!(head.header("Sec-WebSocket-Protocol"), Some("bearer.theirs"), "{head}");
    // And alone they are no credentials here.
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/chat").with("Authorization", "Bearer theirs").encode());
    assert_eq!(client.refused().body.trim_end(), "No authorization header, access_token or apikey was found.");
}

/// What of a request depends on the credential: the target, and fields that are none of the gateway's own.
fn told(head: &Head) -> Vec<String> {
    let text = String::from_utf8(head.bytes.clone()).expect("a head in UTF-8");
    let own = [
        "Host",
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Version",
        "Sec-WebSocket-Key",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "Forwarded",
        "X-Request-Id",
        "traceparent",
        "X-Forwarded-For",
    ];
    let is_own = |line: &str| line.split_once(": ").is_some_and(|(name, _)| own.contains(&name));
    text.split("\r\n").filter(|line| !line.is_empty() && !is_own(line)).map(ToOwned::to_owned).collect()
}

fn credentials_do_not_travel_on_unless_asked_for(variant: Variant) {
    let keys = Keys::new();
    let token = token("subscribed").sign(&keys.ed);
    let encoded = STANDARD.encode(name_and_password("alice"));
    for forward in [false, true] {
        let (gateway, upstream) = chat(variant, &keys, &format!("{ALL_FORMS}, forward_credentials: {forward}"));
        for (carrier, credential, stripped, forwarded) in [
            (
                Carrier::Bearer,
                token.as_str(),
                &["GET / HTTP/1.1"][..],
                vec!["GET / HTTP/1.1".to_owned(), format!("Authorization: Bearer {token}")],
            ),
            // A token of the query is moved into the header, so that no log of the endpoint has it in an address.
            (
                Carrier::QueryToken,
                &token,
                &["GET /?lang=de&page=2 HTTP/1.1"],
                vec!["GET /?lang=de&page=2 HTTP/1.1".to_owned(), format!("Authorization: Bearer {token}")],
            ),
            (
                Carrier::KeyHeader,
                "good-key",
                &["GET / HTTP/1.1"],
                vec!["GET / HTTP/1.1".to_owned(), "apikey: good-key".to_owned()],
            ),
            (
                Carrier::KeyQuery,
                "good-key",
                &["GET /?lang=de&page=2 HTTP/1.1"],
                vec!["GET /?lang=de&page=2 HTTP/1.1".to_owned(), "apikey: good-key".to_owned()],
            ),
            (
                Carrier::Basic,
                "alice:correct horse: battery",
                &["GET / HTTP/1.1"],
                vec!["GET / HTTP/1.1".to_owned(), format!("Authorization: Basic {encoded}")],
            ),
            (
                Carrier::Cookie,
                &token,
                &["GET / HTTP/1.1", "Cookie: theme=dark; a=b"],
                vec!["GET / HTTP/1.1".to_owned(), format!("Cookie: theme=dark; apimlAuthenticationToken={token}; a=b")],
            ),
            (
                Carrier::PersonalHeader,
                &token,
                &["GET / HTTP/1.1"],
                vec!["GET / HTTP/1.1".to_owned(), format!("PRIVATE-TOKEN: {token}")],
            ),
            (
                Carrier::PersonalCookie,
                "good-key",
                &["GET / HTTP/1.1", "Cookie: a=b"],
                vec!["GET / HTTP/1.1".to_owned(), "Cookie: personalAccessToken=good-key; a=b".to_owned()],
            ),
        ] {
            let mut client = gateway.connect();
            client.send(&carrier.request("/chat", credential).encode());
            let mut backend = upstream.accept();
            let head = backend.agree();
            client.upgraded();
            if forward {
                let mut found = told(&head);
                let mut expected = forwarded;
                found.sort();
                expected.sort();
                assert_eq!(found, expected, "{carrier:?}: {head}");
            } else {
                assert_eq!(told(&head), stripped, "{carrier:?}: {head}");
                assert!(!head.to_string().contains(credential), "{carrier:?}: {head}");
            }
        }
    }
}

fn a_token_among_subprotocols_is_neither_offered_nor_agreed_to(variant: Variant) {
    let keys = Keys::new();
    let (gateway, upstream) = chat(variant, &keys, "accept: [subprotocol]");
    let token = token("subscribed").sign(&keys.ed);
    for carrier in [Carrier::Subprotocol, Carrier::SubprotocolOfKubernetes] {
        let mut client = gateway.connect();
        client.send(&carrier.request("/chat", &token).encode());
        let mut backend = upstream.accept();
        let head = backend.agree_with("Sec-WebSocket-Protocol: chat.v2\r\n");
        assert_eq!(head.headers("Sec-WebSocket-Protocol"), ["chat.v2"], "{head}");
        let answer = client.upgraded();
        assert_eq!(answer.headers("Sec-WebSocket-Protocol"), ["chat.v2"], "{answer}");
    }
    // Alone it leaves nothing to offer, and nothing that could be agreed to.
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/chat").with("Sec-WebSocket-Protocol", &format!("bearer.{token}")).encode());
    let head = upstream.accept().agree();
    assert_eq!(head.header("Sec-WebSocket-Protocol"), None, "{head}");
    assert_eq!(client.upgraded().header("Sec-WebSocket-Protocol"), None);
    // An endpoint that agrees to it nevertheless was told by somebody else.
    let mut client = gateway.connect();
    client.send(&Carrier::Subprotocol.request("/chat", &token).encode());
    let mut backend = upstream.accept();
    backend.agree_with(&format!("Sec-WebSocket-Protocol: bearer.{token}\r\n"));
    assert_eq!(client.refused().status, 502);
    until("nothing in the log has it", || !gateway.log_lines().is_empty());
}

fn a_key_is_good_from_its_addresses_and_pages_only(variant: Variant) {
    let keys = Keys::new();
    let upstream = RawUpstream::listen();
    let restricted = people(&keys)
        .key("near", "subscribed", "near-key", "restrictions: { addresses: [127.0.0.0/8] }")
        .key("far", "subscribed", "far-key", "restrictions: { addresses: [192.0.2.0/24, \"2001:db8::/32\"] }")
        .key("page", "subscribed", "page-key", "restrictions: { referrers: [\"https://*.example.test/app/*\"] }")
        .key("origin", "subscribed", "origin-key", "restrictions: { referrers: [\"https://app.example.test\"] }");
    let gateway = Setup::new(variant)
        .listener("trusted_proxies: [127.0.0.0/8]")
        .api_to("chat", &upstream.url("/"), "authentication: { accept: [api_key] }")
        .people(restricted)
        .start();
    let with_key = |key: &str| Upgrade::to("/chat").with("apikey", key);
    let page = "https://shop.example.test/app/cart";
    let cases = [
        (with_key("near-key"), None),
        (with_key("far-key"), Some("address")),
        (with_key("far-key").with("X-Forwarded-For", "192.0.2.7"), None),
        (with_key("far-key").with("X-Forwarded-For", "2001:db8::7"), None),
        (with_key("far-key").with("X-Forwarded-For", "192.0.3.7"), Some("address")),
        (with_key("near-key").with("X-Forwarded-For", "192.0.2.7"), Some("address")),
        (with_key("page-key"), Some("referrer")),
        (with_key("page-key").with("Referer", page), None),
        (with_key("page-key").with("Referer", "https://shop.example.test/other"), Some("referrer")),
        (with_key("page-key").with("Referer", "http://shop.example.test/app/cart"), Some("referrer")),
        (with_key("origin-key").with("Origin", "https://app.example.test"), None),
        (with_key("origin-key").with("Origin", "https://app.example.test.evil.test"), Some("referrer")),
        (
            with_key("origin-key").with("Referer", "https://evil.test").with("Origin", "https://app.example.test"),
            Some("referrer"),
        ),
    ];
    for (at, (request, fault)) in cases.iter().enumerate() {
        let id = format!("case-{at}");
        let mut client = gateway.connect();
        client.send(&request.clone().with("X-Request-Id", &id).encode());
        match fault {
            None => {
                upstream.accept().agree();
                client.upgraded();
            }
            Some(detail) => {
                assert_eq!(client.refused().status, 401, "{}", request.encode().escape_ascii());
                until("the log says why", || {
                    gateway.log_lines().iter().any(|line| {
                        let said = line["detail"].as_str().unwrap_or_default();
                        line["request_id"] == *id && said.starts_with(&format!("{detail}: "))
                    })
                });
            }
        }
    }
}

fn names_of_headers_and_cookies_can_be_others(variant: Variant) {
    let keys = Keys::new();
    let names = "authorization_header: X-Auth, api_key_name: X-Key, cookie_name: session";
    let (gateway, upstream) = chat(variant, &keys, &format!("accept: [bearer, api_key, cookie], {names}"));
    let token = token("subscribed").sign(&keys.ed);
    for (request, expected) in [
        (Upgrade::to("/chat").with("X-Auth", &format!("Bearer {token}")), 101),
        (Upgrade::to("/chat").with("x-key", "good-key"), 101),
        (Upgrade::to("/chat?X-Key=good-key"), 101),
        (Upgrade::to("/chat").with("Cookie", &format!("session={token}")), 101),
        (Upgrade::to("/chat").with("Authorization", &format!("Bearer {token}")), 401),
        (Upgrade::to("/chat").with("apikey", "good-key"), 401),
        (Upgrade::to("/chat").with("Cookie", &format!("apimlAuthenticationToken={token}")), 401),
    ] {
        let mut client = gateway.connect();
        client.send(&request.encode());
        if expected == 101 {
            let head = upstream.accept().agree().to_string();
            assert!(!head.contains(&token) && !head.contains("good-key"), "{head}");
        }
        assert_eq!(client.head().status(), expected, "{}", request.encode().escape_ascii());
    }
    // The name of the key's parameter is a secret parameter of the log by itself.
    until("the sessions are in the log", || gateway.log_lines().len() >= 7);
    let log = serde_json::to_string(&gateway.log_lines()).expect("JSON");
    assert!(!log.contains("good-key") && !log.contains(&token), "{log}");
}
