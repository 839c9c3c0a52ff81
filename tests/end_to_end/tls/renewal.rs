//! The drill of renewal: a thousand sessions talk while the certificate's files are replaced again and again, at times by
//! files that are no good. Not one session closes, and newcomers get the newest good certificate within a second.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::expect_echo;
use crate::drills::load::{Door, Load};
use crate::drills::raise_descriptors;
use crate::kit::pki::{Authority, Identity, Key, Leaf, Valid, self_signed};
use crate::kit::tls::{Agreed, Client, Terms};
use crate::kit::{EchoBackend, Gateway, Setup, Variant, aloud, on_both_drivers_securely, until};

on_both_drivers_securely!(a_thousand_sessions_do_not_notice_that_certificates_are_replaced);

/// In how long newcomers must get the newest certificate.
const NOTICED_MAX: Duration = Duration::from_secs(1);

/// How much of it: all where the gateway is as an operator starts it.
struct Size {
    sessions: usize,
    replacements: usize,
}

impl Size {
    fn on(variant: Variant) -> Self {
        if variant == Variant::Secure {
            Self { sessions: 1000, replacements: 50 }
        } else {
            Self { sessions: 250, replacements: 10 }
        }
    }
}

/// The files that the configuration names, and what is put in their place.
struct Files {
    live: Identity,
    authority: Authority,
    names: [&'static str; 2],
}

impl Files {
    fn new(directory: &Path) -> Self {
        let authority = Authority::root(directory, "own");
        let live = Identity { chain: directory.join("live.pem"), key: directory.join("live.key") };
        let files = Self { live, authority, names: ["DNS:own.test", "IP:127.0.0.1"] };
        files.put(&files.renewed(0));
        files
    }

    /// The next certificate, of another kind of key each time.
    fn renewed(&self, round: usize) -> Identity {
        let key = [Key::P256, Key::Ed25519, Key::P384, Key::P256][round % 4];
        self.authority.issue(&Leaf::new(&format!("round-{round}")).names(&self.names).key(key))
    }

    /// As an operator's tool does it: each file in one step, the two of them one after the other.
    fn put(&self, identity: &Identity) {
        replace(&self.live.key, &fs::read(&identity.key).expect("a key"));
        replace(&self.live.chain, &fs::read(&identity.chain).expect("a chain"));
    }

    /// Puts files there that are no good, each in another way; what the control plane's log says of such.
    fn spoil(&self, round: usize, good: &Identity) -> &'static str {
        let broken = |name: &str| format!("{name}-{round}");
        match round / 5 % 5 {
            0 => {
                let other = self.authority.issue(&Leaf::new(&broken("other")).names(&self.names));
                replace(&self.live.key, &fs::read(other.key).expect("a key"));
                "the private key is not that of the certificate"
            }
            1 => {
                replace(&self.live.chain, b"-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n");
                "is not base64"
            }
            2 => {
                let whole = fs::read(&good.chain).expect("a chain");
                replace(&self.live.chain, &whole[..whole.len() / 2]);
                "has no end; the file may be cut off"
            }
            3 => {
                self.put(
                    &self.authority.issue(&Leaf::new(&broken("expired")).names(&self.names).valid(Valid::Expired)),
                );
                "ran out at"
            }
            _ => {
                fs::remove_file(&self.live.key).expect("a file can be removed");
                "cannot be opened"
            }
        }
    }
}

fn replace(path: &Path, content: &[u8]) {
    let beside = path.with_extension("new");
    // A key that others may read is worth a warning at each publication.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    file.and_then(|mut file| file.write_all(content)).expect("a file can be written");
    fs::rename(beside, path).expect("a file can be replaced");
}

/// What a newcomer is shown.
fn shown(gateway: &Gateway, newcomer: &Client) -> Agreed {
    let mut peer = newcomer.connect(gateway.address());
    let agreed = Agreed::on(&peer);
    peer.upgrade("/probe");
    expect_echo(&mut peer, "new here");
    agreed
}

fn a_thousand_sessions_do_not_notice_that_certificates_are_replaced(variant: Variant) {
    let size = Size::on(variant);
    raise_descriptors();
    // What is replaced is shown to clients; in clear to the backend, for it is a thousand handshakes as it is.
    let echo = EchoBackend::start_on(Variant::SecureIn);
    let setup = Setup::new(variant).workers(2).api_to("stable", &echo.url("/"), "");
    let files = Files::new(setup.directory());
    let gateway = setup.certificate(&files.live.entry("live")).tls("certificates: [live]").start();
    let newcomer = Terms::default().roots(&files.authority.certificate()).name(Some("own.test")).client();
    let door = Door { address: gateway.address(), target: "/stable", tls: Some(newcomer.clone()) };
    let load = Load::start(vec![door; size.sessions], 11);

    let mut noticed = Vec::new();
    let mut spoiled = BTreeSet::new();
    for round in 1..=size.replacements {
        let identity = files.renewed(round);
        files.put(&identity);
        let begun = Instant::now();
        until("newcomers get the newest certificate", || shown(&gateway, &newcomer).shows(&identity));
        noticed.push(begun.elapsed());
        if round % 5 == 0 {
            let before = gateway.said("controlplane").len();
            let what = files.spoil(round, &identity);
            // Only what is said of these files counts, not what was said of earlier ones.
            until(&format!("the control plane says what is wrong: {what}"), || {
                gateway.said("controlplane")[before..].lines().any(|line| line.contains("ERROR") && line.contains(what))
            });
            assert!(shown(&gateway, &newcomer).shows(&identity), "{what}: the old one stays");
            spoiled.insert(what);
        }
        load.check();
    }
    assert_eq!(spoiled.len(), (size.replacements / 5).min(5), "each time in another way: {spoiled:?}");
    load.go_on_for(size.sessions);
    // Something that trusts nobody is refused as well, and says so when it is applied.
    let stray = self_signed(gateway.setup().directory(), &Leaf::new("stray"));
    fs::remove_file(&stray.key).expect("a file can be removed");
    let applied = gateway.apply(&gateway.setup().yaml().replace(&files.live.entry("live"), &stray.entry("live")));
    assert_eq!(applied.code, 1, "{applied:?}");
    assert!(format!("{}{}", applied.stdout, applied.stderr).contains("stray.key"), "{applied:?}");
    assert_eq!(gateway.metric("framegate_session_closes_total", &[("api", "stable")]), 0.0);
    let tally = load.finish();
    noticed.sort_unstable();
    let (median, longest) = (noticed[noticed.len() / 2], noticed[noticed.len() - 1]);
    aloud(&format!(
        "renewal on {}: {} sessions, {} messages; {} certificates, shown after {median:.0?} (median), {longest:.0?} (longest)",
        variant.word(),
        size.sessions,
        tally.messages,
        noticed.len(),
    ));
    assert!(longest < NOTICED_MAX, "{noticed:?}");
}
