//! What a credential adds to a handshake: the gateway's CPU for a short session without one, with a key, with a token that
//! was seen before, and with one that was not; in one run, side by side.
//!
//! `cargo bench --bench credentials`. The gateway has one worker on CPU 0; generator and echo share CPU 1. A token that is
//! new may cost its signature check and nothing else, which is why that check is timed here too; one that was seen before
//! may cost a tenth of a handshake.

#[path = "../tests/kit/mod.rs"]
mod kit;
mod load;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::tokens::{Algorithm, Signer, Token, key_set};
use kit::{Gateway, People, Setup, Upgrade, Variant};
use load::handshakes::{Farewell, Handshakes};
use load::{Door, Echo, machine};
use proto::snapshot::SecretHash;
use ring::signature::{self, UnparsedPublicKey};

const LOOPS: usize = 32;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(500);
const WARM_UP: Duration = Duration::from_millis(100);
/// New tokens for a round: more than there are handshakes in it.
const FRESH: usize = 12_000;
/// What a handshake with a token that was seen before may cost, of one without a credential.
const SEEN_MAX: f64 = 1.1;
/// Below this a difference is none.
const TIE: f64 = 0.04;

const ISSUER: &str = "https://issuer.test";
const KEY: &str = "fgk_bench_7Qm2vX4nLr9sT1wY";

/// What is presented.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Key,
    Seen(Algorithm),
    New(Algorithm),
}

const KINDS: [Kind; 8] = [
    Kind::Nothing,
    Kind::Key,
    Kind::Seen(Algorithm::EdDsa),
    Kind::Seen(Algorithm::Es256),
    Kind::Seen(Algorithm::Rs256),
    Kind::New(Algorithm::EdDsa),
    Kind::New(Algorithm::Es256),
    Kind::New(Algorithm::Rs256),
];

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Nothing => "no credential".into(),
            Self::Key => "a key".into(),
            Self::Seen(algorithm) => format!("{} seen before", algorithm.word()),
            Self::New(algorithm) => format!("{} never seen", algorithm.word()),
        }
    }
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a measurement, no test: cargo bench --bench credentials");
        return;
    }
    println!("credentials: {}", machine::describe());
    let signers = Algorithm::ALL.map(|algorithm| Signer::new(algorithm, algorithm.word()));
    let echo = Echo::start(Some(1));
    let gateway = started(&echo, &signers);
    machine::pin(1);
    let mut spent = vec![Vec::new(); KINDS.len()];
    for round in 0..ROUNDS {
        for turn in 0..KINDS.len() {
            let at = (round + turn) % KINDS.len();
            spent[at].push(measure(&gateway, &signers, KINDS[at]));
        }
    }
    let medians: Vec<f64> = spent.iter_mut().map(|all| median(all)).collect();
    print(&medians, &spent, &signers);
}

fn started(echo: &Echo, signers: &[Signer; 3]) -> Gateway {
    let people = People::new()
        .issuer("test", ISSUER, &key_set(&signers.each_ref()), "audiences: [bench]")
        .application("app", "")
        .subscriptions("app", &["asking"])
        .key("bench", "app", KEY, "");
    Setup::new(Variant::Automatic)
        .cpus("0")
        .api_to("open", &echo.url(), "")
        .api_to("asking", &echo.url(), "authentication: { accept: [bearer, api_key] }")
        .people(people)
        .start()
}

fn token(signer: &Signer) -> String {
    let token = Token::of(ISSUER).claim("aud", "bench").claim("client_id", "app-client").claim("sub", "alice");
    token.claim("scope", "rooms.read rooms.write").claim("keytype", "PRODUCTION").sign(signer)
}

fn signer(signers: &[Signer; 3], algorithm: Algorithm) -> &Signer {
    signers.iter().find(|signer| signer.algorithm() == algorithm).expect("a signer of each algorithm")
}

/// CPU of the data plane for a handshake and its short session, microseconds.
fn measure(gateway: &Gateway, signers: &[Signer; 3], kind: Kind) -> f64 {
    let target = if kind == Kind::Nothing { "/open" } else { "/asking" };
    let door = Door { address: gateway.address(), target, tls: None };
    let with_token = |signer| Upgrade::to(target).with("Authorization", &format!("Bearer {}", token(signer))).encode();
    let (request, fresh) = match kind {
        Kind::Nothing => (door.request(), None),
        Kind::Key => (Upgrade::to(target).with("apikey", KEY).encode(), None),
        Kind::Seen(algorithm) => (with_token(signer(signers, algorithm)), None),
        Kind::New(algorithm) => {
            let signer = signer(signers, algorithm);
            (Vec::new(), Some((0..FRESH).map(|_| with_token(signer)).collect()))
        }
    };
    let expect = "the bench's sessions are sound";
    let mut load = Handshakes::begin_with(&door, request, fresh, LOOPS, Farewell::Frame).expect(expect);
    load.drive(WARM_UP).expect(expect);
    load.forget();
    let before = machine::cpu_time(gateway.pid());
    load.drive(ROUND).expect(expect);
    let spent = machine::cpu_time(gateway.pid()).saturating_sub(before);
    let count = load.count;
    load.settle().expect(expect);
    spent.as_secs_f64() * 1e6 / count as f64
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// What is touched between two checks, so that the second finds the processor's caches as a handshake leaves them.
const OTHER_BYTES: usize = 4 << 20;

/// Microseconds of one signature check by ring.
struct CheckUs {
    /// Again and again, on a machine that does nothing else.
    hot: f64,
    /// Again and again, while the gateway's CPU works too, as it does when handshakes are measured.
    beside_work: f64,
    /// The same, each after something else.
    cold: f64,
}

fn check_us(signer: &Signer) -> CheckUs {
    const TIMES: u32 = 1000;
    let token = token(signer);
    let (message, signed) = token.rsplit_once('.').expect("a token");
    let signed = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signed).expect("base64url");
    let jwk = signer.jwk();
    let octets = |name: &str| {
        let text = jwk[name].as_str().expect("a member of the key");
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text).expect("base64url")
    };
    let check: Box<dyn Fn() -> bool> = match signer.algorithm() {
        Algorithm::EdDsa => {
            let key = UnparsedPublicKey::new(&signature::ED25519, octets("x"));
            Box::new(move || key.verify(message.as_bytes(), &signed).is_ok())
        }
        Algorithm::Es256 => {
            let point = [vec![4], octets("x"), octets("y")].concat();
            let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
            Box::new(move || key.verify(message.as_bytes(), &signed).is_ok())
        }
        Algorithm::Rs256 => {
            let key = signature::RsaPublicKeyComponents { n: octets("n"), e: octets("e") };
            let how = &signature::RSA_PKCS1_2048_8192_SHA256;
            Box::new(move || key.verify(how, message.as_bytes(), &signed).is_ok())
        }
    };
    let timed = |between: &mut dyn FnMut()| {
        let mut spent = Duration::ZERO;
        for _ in 0..TIMES {
            between();
            // What others do on this CPU meanwhile is not the check's.
            let begun = machine::thread_cpu_time();
            assert!(check(), "the signature is right");
            spent += machine::thread_cpu_time().saturating_sub(begun);
        }
        spent.as_secs_f64() * 1e6 / f64::from(TIMES)
    };
    let mut other = vec![0_u8; OTHER_BYTES];
    let hot = timed(&mut || {});
    let (beside_work, cold) = beside_work(|| {
        let touch = &mut || other.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
        (timed(&mut || {}), timed(touch))
    });
    std::hint::black_box(other);
    CheckUs { hot, beside_work, cold }
}

/// Does something on this CPU while the gateway's has work: two CPUs of a virtual machine may be one core's two threads.
fn beside_work<T>(measure: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            machine::pin(0);
            let mut digest = SecretHash::of("work");
            while !is_over.load(Ordering::Relaxed) {
                digest = SecretHash::of(&digest.to_string());
            }
            std::hint::black_box(digest);
        });
        let measured = measure();
        is_over.store(true, Ordering::Relaxed);
        measured
    })
}

fn print(medians: &[f64], spent: &[Vec<f64>], signers: &[Signer; 3]) {
    let at = |kind: Kind| medians[KINDS.iter().position(|one| *one == kind).expect("a kind of the table")];
    let none = at(Kind::Nothing);
    println!("{:<22} {:>12} {:>18} {:>8}  ", "presented", "CPU us", "(least to most)", "x none");
    for ((kind, median), all) in KINDS.iter().zip(medians).zip(spent) {
        let (least, most) = (all[0], all[all.len() - 1]);
        let verdict = match kind {
            Kind::Seen(_) | Kind::Key => held(median / none, SEEN_MAX),
            _ => "",
        };
        println!(
            "{:<22} {median:>12.1} {:>18} {:>8.2}  {verdict}",
            kind.name(),
            format!("({least:.1} to {most:.1})"),
            median / none
        );
    }
    println!("what a new token costs beside one that was seen before, and its signature check alone:");
    for signer in signers {
        let algorithm = signer.algorithm();
        let more = at(Kind::New(algorithm)) - at(Kind::Seen(algorithm));
        let CheckUs { hot, beside_work, cold } = check_us(signer);
        println!(
            "{:<22} {more:>12.1} us; the check {hot:.1} us on an idle machine, {beside_work:.1} us while the other CPU works, \
             {cold:.1} us after something else too",
            algorithm.word()
        );
    }
}

fn held(ratio: f64, most: f64) -> &'static str {
    match ratio {
        _ if ratio <= most => "met (1.10)",
        _ if ratio <= most + TIE => "tie (1.10)",
        _ => "SHORT (1.10)",
    }
}
