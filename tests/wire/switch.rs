//! RFC 6455 §4.1 and §4.2.2: the upstream's answer, and the answers that the client reads.

use proto::http::{BodyLength, ResponseHead};
use proto::parse::Parse;
use proto::ws::extension::Deflate;
use proto::ws::handshake::{
    Agreed, Key, Offer, SwitchFault, check_switch, write_refusal, write_relayed_head, write_switch,
};

const FIELDS: [&str; 3] =
    ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="];

fn head(bytes: &str) -> ResponseHead {
    match ResponseHead::parse(bytes.as_bytes()) {
        Ok(Parse::Complete(head, _)) => head,
        other => panic!("{other:?}: {bytes}"),
    }
}

fn check(line: &str, without: &[&str], with: &[&str]) -> Result<Agreed, SwitchFault> {
    let kept = FIELDS.iter().filter(|field| !without.iter().any(|name| field.starts_with(name)));
    let lines: Vec<&str> = [line].into_iter().chain(kept.copied()).chain(with.iter().copied()).collect();
    let bytes = lines.join("\r\n") + "\r\n\r\n";
    let key = Key::parse(b"dGhlIHNhbXBsZSBub25jZQ==").expect("the key of RFC 6455 1.3");
    let sent = Offer {
        subprotocols: vec!["chat".into(), "superchat".into()],
        deflate: vec![
            Deflate { server_max_window_bits: Some(10), ..Deflate::default() },
            Deflate { client_max_window_bits: Some(None), ..Deflate::default() },
        ],
    };
    check_switch(&head(&bytes).view(bytes.as_bytes()), &key, &sent)
}

const LINE: &str = "HTTP/1.1 101 Switching Protocols";

#[test]
fn a_switch_says_what_was_agreed() {
    assert_eq!(check(LINE, &[], &[]), Ok(Agreed::default()));
    let agreed = check(
        LINE,
        &["Upgrade", "Connection"],
        &[
            "upgrade: WebSocket",
            "connection: keep-alive, upgrade",
            "Sec-WebSocket-Protocol: superchat",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12; server_no_context_takeover",
            "Content-Length: 0",
        ],
    );
    let extensions = "permessage-deflate; server_no_context_takeover; client_max_window_bits=12";
    let deflate =
        Deflate { server_no_context_takeover: true, client_max_window_bits: Some(Some(12)), ..Deflate::default() };
    let mut agreed = agreed.unwrap();
    assert_eq!(
        agreed,
        Agreed { subprotocol: Some("superchat".into()), extensions: Some(extensions.into()), deflate: Some(deflate) }
    );
    assert!(agreed.has_contexts(), "the client's");
    agreed.give_up_contexts();
    let extensions =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=12";
    assert_eq!((agreed.extensions.as_deref(), agreed.has_contexts()), (Some(extensions), false));
}

#[test]
fn every_rule_has_its_fault() {
    use SwitchFault::*;
    for (line, without, with, fault) in [
        ("HTTP/1.1 200 OK", &[][..], &[][..], Status),
        ("HTTP/1.0 101 Switching Protocols", &[], &[], HttpVersion),
        (LINE, &["Upgrade"], &[], Upgrade),
        (LINE, &["Upgrade"], &["Upgrade: h2c"], Upgrade),
        (LINE, &["Upgrade"], &["Upgrade: websocket, h2c"], Upgrade),
        (LINE, &["Connection"], &[], Upgrade),
        (LINE, &["Connection"], &["Connection: close"], Upgrade),
        (LINE, &["Sec-WebSocket-Accept"], &[], Accept),
        (LINE, &["Sec-WebSocket-Accept"], &["Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo="], Accept),
        (LINE, &["Sec-WebSocket-Accept"], &["Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo"], Accept),
        (LINE, &[], &["Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], Accept),
        (LINE, &[], &["Content-Length: 5"], Body),
        (LINE, &[], &["Transfer-Encoding: chunked"], Body),
        (LINE, &[], &["Sec-WebSocket-Protocol: other"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Protocol: Chat"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Protocol:"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Protocol: chat, superchat"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Extensions: mux"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Extensions:"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Extensions: permessage-deflate; what"], NotOffered),
        (LINE, &[], &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"], NotOffered),
    ] {
        assert_eq!(check(line, without, with), Err(fault), "{line} {without:?} {with:?}");
    }
}

#[test]
fn the_clients_101() {
    let accept = Key::parse(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap().accept();
    let mut out = Vec::new();
    write_switch(&mut out, &accept, &Agreed::default(), &[]).unwrap();
    let plain = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), plain);
    out.clear();
    let agreed = Agreed {
        subprotocol: Some("chat".into()),
        extensions: Some("permessage-deflate".into()),
        deflate: Some(Deflate::default()),
    };
    write_switch(&mut out, &accept, &agreed, &[("X-Request-Id", "1")]).unwrap();
    let more =
        "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nX-Request-Id: 1\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), plain[..plain.len() - 2].to_owned() + more);
    assert!(write_switch(&mut out, &accept, &agreed, &[("X-Request-Id", "1\n")]).is_err());
}

#[test]
fn refusals() {
    for (status, extra, body, expected) in [
        (
            404,
            &[][..],
            "No API is published at this address.",
            "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 37\r\n\r\nNo API is published at this address.\n",
        ),
        (200, &[], "", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        (
            405,
            &[],
            "",
            "HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            426,
            &[],
            "",
            "HTTP/1.1 426 Upgrade Required\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            503,
            &[("Retry-After", "5")],
            "",
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 5\r\n\r\n",
        ),
    ] {
        let mut out = Vec::new();
        write_refusal(&mut out, status, extra, body).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}

#[test]
fn other_answers_are_relayed_as_plain_http() {
    let bytes = "HTTP/1.1 302 Elsewhere\r\nLocation: /login\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
        Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nSec-WebSocket-Accept: x\r\n\
        Proxy-Authenticate: Basic\r\nX-Request-Id: theirs\r\nContent-Length: 3\r\n\r\n";
    let mut out = Vec::new();
    let body = write_relayed_head(&mut out, &head(bytes).view(bytes.as_bytes()), &[("x-request-id", "ours")]).unwrap();
    assert_eq!(body, BodyLength::Known(3));
    let expected = "HTTP/1.1 302 Elsewhere\r\nConnection: close\r\nContent-Length: 3\r\nLocation: /login\r\n\
        Set-Cookie: a=b\r\nset-cookie: c=d\r\nx-request-id: ours\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn framing_of_relayed_answers_is_kept() {
    for (line, framing, body) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
        ("HTTP/1.0 200 OK\r\n", "", BodyLength::UntilClose),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n", "", BodyLength::None),
    ] {
        let bytes = format!("{line}\r\n");
        let mut out = Vec::new();
        assert_eq!(write_relayed_head(&mut out, &head(&bytes).view(bytes.as_bytes()), &[]).unwrap(), body);
        let (first, rest) = std::str::from_utf8(&out).unwrap().split_once("\r\n").unwrap();
        assert!(first.starts_with("HTTP/1.1 20"), "{first}");
        assert_eq!(rest, format!("Connection: close\r\n{framing}\r\n"));
    }
}
