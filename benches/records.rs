//! What a record of TLS costs: our record layer beside rustls's two interfaces, sealing and opening. One thread.
//!
//! `cargo bench --bench records`. All of them use the same cipher from the same library: what differs is copies and
//! allocations around it, which are the reason that ours exists.

#[expect(dead_code, reason = "the load of the other benches uses more of it")]
#[path = "load/tls.rs"]
mod tls;

use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::tls::Records;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{PrivateKeyDer, ServerName};

const PAYLOADS: [usize; 3] = [64, 1024, 16 * 1024];
/// Records that are sealed in advance, to be opened one behind the other.
const BATCH: BatchSize = BatchSize::NumIterations(64);
/// More than a sealed payload is.
const ROOM_BYTES: usize = 32 * 1024;

fn sealing(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for bytes in PAYLOADS {
        let plain = vec![0x5a; bytes];
        let mut room = vec![0; ROOM_BYTES];
        group.throughput(Throughput::Bytes(bytes as u64));
        let (_, mut ours) = with_ours();
        group.bench_function(BenchmarkId::new("ours", bytes), |b| {
            b.iter(|| ours.seal(black_box(&plain), black_box(&mut room), 0));
        });
        let (_, mut unbuffered) = with_unbuffered();
        group.bench_function(BenchmarkId::new("rustls, unbuffered", bytes), |b| {
            b.iter(|| match unbuffered.process_tls_records(&mut []).state.expect("a sound session") {
                ConnectionState::WriteTraffic(mut traffic) => {
                    traffic.encrypt(black_box(&plain), black_box(&mut room)).expect("the room is large enough")
                }
                other => panic!("the session does not write: {other:?}"),
            });
        });
        let (_, mut buffered) = with_buffered();
        group.bench_function(BenchmarkId::new("rustls, buffered", bytes), |b| {
            b.iter(|| {
                buffered.writer().write_all(black_box(&plain)).expect("rustls takes it");
                let mut left = room.as_mut_slice();
                while buffered.wants_write() {
                    buffered.write_tls(&mut left).expect("the room is large enough");
                }
            });
        });
    }
    group.finish();
}

fn opening(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for bytes in PAYLOADS {
        let plain = vec![0x5a; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        let (mut far, mut ours) = with_ours();
        group.bench_function(BenchmarkId::new("ours", bytes), |b| {
            let open = |mut record: Vec<u8>| {
                assert_eq!(ours.open(&mut record).plain, bytes);
                record
            };
            b.iter_batched(|| sealed(&mut far, &plain), open, BATCH);
        });
        let (mut far, mut unbuffered) = with_unbuffered();
        let mut room = vec![0; ROOM_BYTES];
        group.bench_function(BenchmarkId::new("rustls, unbuffered", bytes), |b| {
            let open = |mut record: Vec<u8>| {
                match unbuffered.process_tls_records(&mut record).state.expect("a sound session") {
                    ConnectionState::ReadTraffic(mut traffic) => {
                        let payload = traffic.next_record().expect("a record").expect("a sound one").payload;
                        room[..payload.len()].copy_from_slice(payload);
                        assert_eq!(payload.len(), bytes);
                    }
                    other => panic!("the session does not read: {other:?}"),
                }
                record
            };
            b.iter_batched(|| sealed(&mut far, &plain), open, BATCH);
        });
        let (mut far, mut buffered) = with_buffered();
        group.bench_function(BenchmarkId::new("rustls, buffered", bytes), |b| {
            let open = |record: Vec<u8>| {
                let mut left = record.as_slice();
                while !left.is_empty() {
                    buffered.read_tls(&mut left).expect("rustls takes it");
                    buffered.process_new_packets().expect("a sound record");
                }
                buffered.reader().read_exact(&mut room[..bytes]).expect("all of it");
                record
            };
            b.iter_batched(|| sealed(&mut far, &plain), open, BATCH);
        });
    }
    group.finish();
}

/// What the far end sends for these bytes.
fn sealed(far: &mut Connection, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(ROOM_BYTES);
    far.writer().write_all(plain).expect("rustls takes it");
    while far.wants_write() {
        far.write_tls(&mut sealed).expect("a vector takes everything");
    }
    sealed
}

/// A client far away, and our records here.
fn with_ours() -> (Connection, Records) {
    let (far, near) = with_unbuffered();
    let (secrets, kernel) = near.dangerous_into_kernel_connection().expect("the handshake is over");
    (far, Records::of_server(secrets, kernel).expect("keys of the right size"))
}

fn with_unbuffered() -> (Connection, UnbufferedServerConnection) {
    let (mut far, config) = ends();
    let mut near = tls::accept(&config).expect("a server");
    loop {
        let mut flight = Vec::new();
        while far.wants_write() {
            far.write_tls(&mut flight).expect("a vector takes everything");
        }
        let done = near.advance(&flight).expect("a sound handshake");
        hear(&mut far, &std::mem::take(&mut near.to_send));
        if done {
            return (far, near.into_connection());
        }
    }
}

fn with_buffered() -> (Connection, Connection) {
    let (mut far, config) = ends();
    let mut near: Connection = ServerConnection::new(config).expect("a server").into();
    while far.is_handshaking() || near.is_handshaking() {
        for turn in 0..2 {
            let (from, to) = if turn == 0 { (&mut far, &mut near) } else { (&mut near, &mut far) };
            let mut flight = Vec::new();
            while from.wants_write() {
                from.write_tls(&mut flight).expect("a vector takes everything");
            }
            hear(to, &flight);
        }
    }
    (far, near)
}

fn hear(connection: &mut Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).expect("rustls takes it");
        connection.process_new_packets().expect("a sound handshake");
    }
}

/// A client that has not begun, and what its server is to be.
fn ends() -> (Connection, Arc<ServerConfig>) {
    let suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384];
    let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..default_provider() });
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a sound certificate");
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]);
    let server = server.expect("TLS 1.3").with_no_client_auth();
    let mut server = server.with_single_cert(vec![made.cert.der().clone()], key).expect("a pair");
    server.enable_secret_extraction = true;
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).expect("TLS 1.3");
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let far = ClientConnection::new(Arc::new(client), name).expect("a client");
    (far.into(), Arc::new(server))
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = sealing, opening
}
criterion_main!(benches);
