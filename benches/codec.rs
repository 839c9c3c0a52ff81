//! What the words cost: frame headers, masking, accept keys, request heads. Pure functions, one thread.
//!
//! `cargo bench --bench codec`. Masking has the plain form beside ours: the reason that ours exists is the ratio.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use proto::http::{RequestHead, RequestScan};
use proto::parse::Parse;
use proto::ws::frame::parse;
use proto::ws::handshake::{Key, check_upgrade};
use proto::ws::{FrameHeader, Opcode, Sender, Utf8, mask};

/// What a browser sends.
const HEAD: &[u8] = b"GET /chat/1.0/room?token=abc HTTP/1.1\r\n\
    Host: gateway.example:8080\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://app.example\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\n\r\n";

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame header");
    for (name, length) in [("7 bits", 100), ("16 bits", 1000), ("64 bits", 100_000)] {
        let header = FrameHeader { fin: true, rsv1: false, opcode: Opcode::Binary, mask: Some([1, 2, 3, 4]), length };
        let (bytes, used) = header.encode();
        group.bench_function(BenchmarkId::new("parse", name), |b| {
            b.iter(|| parse(black_box(&bytes[..used]), Sender::Client, false));
        });
        group.bench_function(BenchmarkId::new("encode", name), |b| b.iter(|| black_box(&header).encode()));
    }
    group.finish();
}

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for bytes in [64, 1024, 16 * 1024, 256 * 1024] {
        let mut payload = vec![0x5a; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("ours", bytes), |b| {
            b.iter(|| mask::apply(black_box(&mut payload), black_box([1, 2, 3, 4]), 1));
        });
        group.bench_function(BenchmarkId::new("bytewise", bytes), |b| {
            b.iter(|| mask::apply_bytewise(black_box(&mut payload), black_box([1, 2, 3, 4]), 1));
        });
    }
    group.finish();
}

fn text(c: &mut Criterion) {
    let mut group = c.benchmark_group("utf8");
    for (name, piece) in [("ascii", "The quick brown fox. "), ("greek", "κόσμε και πάλι κόσμε ")] {
        let message = piece.repeat(1 + 16 * 1024 / piece.len());
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(BenchmarkId::new("16 KiB", name), |b| {
            b.iter(|| Utf8::new().feed(black_box(message.as_bytes())));
        });
        // As messages come from the network: cut anywhere, also inside characters.
        group.bench_function(BenchmarkId::new("16 KiB in pieces of 1,001 bytes", name), |b| {
            b.iter(|| {
                let mut utf8 = Utf8::new();
                message.as_bytes().chunks(1001).try_for_each(|piece| utf8.feed(black_box(piece)))
            });
        });
        let short = piece.repeat(2);
        group.throughput(Throughput::Bytes(short.len() as u64));
        group.bench_function(BenchmarkId::new("a short text", name), |b| {
            b.iter(|| Utf8::new().feed(black_box(short.as_bytes())));
        });
    }
    group.finish();
}

fn handshakes(c: &mut Criterion) {
    let key = Key::from_random([7; 16]);
    c.bench_function("accept key", |b| b.iter(|| black_box(&key).accept()));
    let mut group = c.benchmark_group("request head");
    group.throughput(Throughput::Bytes(HEAD.len() as u64));
    group.bench_function("parse", |b| b.iter(|| RequestHead::parse(black_box(HEAD))));
    group.bench_function("parse in pieces of 16 bytes", |b| {
        b.iter(|| {
            let mut scan = RequestScan::new();
            for end in (16..HEAD.len()).step_by(16) {
                let _ = black_box(scan.feed(black_box(&HEAD[..end])));
            }
            scan.feed(black_box(HEAD))
        });
    });
    let Ok(Parse::Complete(head, _)) = RequestHead::parse(HEAD) else { panic!("the head is sound") };
    group.bench_function("check upgrade", |b| b.iter(|| check_upgrade(&black_box(&head).view(HEAD))));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = headers, masking, text, handshakes
}
criterion_main!(benches);
