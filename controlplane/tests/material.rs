//! Certificates, keys and lists as operators have them, right and wrong, through the whole of compiling.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "kit/authority.rs"]
mod authority;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use authority::{Authority, is_available};
use controlplane::compile::{Compiled, compile};
use controlplane::expiry;
use controlplane::material::Known;
use controlplane::office::{Office, remembered_certificates};
use controlplane::tokens::KeySets;
use controlplane::watch;
use proto::snapshot::Snapshot;

const DAY: Duration = Duration::from_secs(86_400);

const DOCUMENT: &str = "\
version: 1
certificates:
  - name: edge
    chain: edge.pem
    key: edge.key
authorities:
  - name: ours
    certificates: ca.pem
    revocations: [ours.crl]
listeners:
  - name: public
    bind: 127.0.0.1:8443
    tls: { certificates: [edge], client_certificates: { mode: optional, authorities: ours } }
";

/// An authority, what it has made, and a document that names it.
fn house(directory: &Path) -> Authority {
    let house = Authority::new(&directory.join("house"), 30);
    house.issue("edge", "DNS:edge.test,IP:127.0.0.1", 25);
    house.list("ours", 10);
    std::fs::set_permissions(house.path("edge.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    house.write("gateway.yaml", DOCUMENT);
    house
}

fn compiled(house: &Authority, known: &Known, later: Duration) -> Compiled {
    compile(&house.path("gateway.yaml"), &|_| None, known, &KeySets::default(), SystemTime::now() + later)
}

fn snapshot(house: &Authority) -> Snapshot {
    let compiled = compiled(house, &Known::default(), Duration::ZERO);
    compiled.outcome.unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}"))
}

/// What is wrong, one line each, without the directory.
fn told(house: &Authority) -> Vec<String> {
    let compiled = compiled(house, &Known::default(), Duration::ZERO);
    let prefix = house.path("").display().to_string();
    compiled.outcome.err().unwrap_or_default().iter().map(|one| one.to_string().replace(&prefix, "")).collect()
}

fn warned(compiled: &Compiled) -> Vec<String> {
    compiled.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn files_become_their_content_in_one_plain_form() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    house.respond("edge", 5);
    house.write("gateway.yaml", &DOCUMENT.replace("key: edge.key", "key: edge.key\n    ocsp_response: edge.ocsp"));
    house.openssl("crl -in ours.crl -outform DER -out ours.der");
    let plain = snapshot(&house);
    let (certificate, authorities) = (plain.certificates().next().unwrap(), &plain.authorities()[0]);
    for (pem, begin) in [
        (&certificate.chain, "-----BEGIN CERTIFICATE-----"),
        (&certificate.key, "-----BEGIN PRIVATE KEY-----"),
        (certificate.ocsp_response.as_ref().unwrap(), "-----BEGIN OCSP RESPONSE-----"),
        (&authorities.certificates, "-----BEGIN CERTIFICATE-----"),
        (&authorities.revocations[0], "-----BEGIN X509 CRL-----"),
    ] {
        assert!(pem.text().is_some_and(|text| text.starts_with(begin)), "{begin}");
    }
    assert!(Snapshot::from_sections(plain.sections().clone(), None).is_ok(), "a push has no path");

    // Comments, a key behind the chain, a chain before the key, DER: all the same.
    let both = format!("subject=edge\n{}{}", house.read("edge.pem"), house.read("edge.key"));
    house.write("edge.pem", &both);
    house.write("edge.key", &both);
    house.write("gateway.yaml", &house.read("gateway.yaml").replace("ours.crl", "ours.der"));
    assert_eq!(snapshot(&house).checksum(), plain.checksum());

    // The text itself, and a path from an included file.
    let indented = |name: &str| house.read(name).replace('\n', "\n      ");
    let (chain, key) = (indented("edge.pem"), indented("edge.key"));
    let inline = format!(
        "certificates:\n  - name: edge\n    chain: |\n      {chain}\n    key: |\n      {key}\n    ocsp_response: ../edge.ocsp\n"
    );
    std::fs::create_dir(house.path("conf.d")).unwrap();
    let at = house.read("gateway.yaml").find("authorities:").unwrap();
    let rest = format!("version: 1\ninclude: conf.d\n{}", &house.read("gateway.yaml")[at..]);
    house.write("gateway.yaml", &rest);
    house.write("conf.d/certificates.yaml", &inline);
    assert_eq!(snapshot(&house).checksum(), plain.checksum());
}

#[test]
fn what_is_named_is_watched_also_where_it_is_missing() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    let good = compiled(&house, &Known::default(), Duration::ZERO);
    let names = |compiled: &Compiled| -> BTreeSet<String> {
        compiled.files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let expected = ["ca.pem", "edge.key", "edge.pem", "gateway.yaml", "ours.crl"];
    assert_eq!(names(&good), expected.map(str::to_owned).into());
    std::fs::remove_file(house.path("edge.key")).unwrap();
    let missing = compiled(&house, &Known::default(), Duration::ZERO);
    assert_eq!(names(&missing), expected.map(str::to_owned).into());
    assert!(missing.directories.iter().any(|directory| directory.ends_with("house")), "{:?}", missing.directories);
}

/// What to spoil; where it is told, and what is told.
type Row = (fn(&Authority), &'static str, &'static str);

const ROWS: &[Row] = &[
    (|h| std::fs::remove_file(h.path("edge.pem")).unwrap(), "gateway.yaml:4:12", "edge.pem: cannot be opened"),
    (|h| h.write("edge.pem", ""), "gateway.yaml:4:12", "holds no certificate"),
    (|h| h.write("edge.pem", &h.read("edge.key")), "gateway.yaml:4:12", "holds no certificate"),
    (|h| h.write("edge.pem", &h.read("edge.pem")[..300]), "gateway.yaml:4:12", "may be cut off"),
    (|h| drop(h.openssl("x509 -in ../edge.pem -outform DER -out edge.pem")), "gateway.yaml:4:12", "not PEM text"),
    (
        |h| h.write("edge.pem", &[h.read("edge.pem"), h.read("edge.pem")].concat()),
        "gateway.yaml:4:12",
        "certificate 2 of the chain (CN=edge) has not signed the one before it",
    ),
    (
        |h| {
            let other = Authority::new(&h.path("other"), 30);
            h.write("edge.pem", &[h.read("edge.pem"), other.read("ca.pem")].concat());
        },
        "gateway.yaml:4:12",
        "has not signed the one before it, whose issuer is CN=house",
    ),
    (|h| h.write("edge.pem", &"x".repeat(70_000)), "gateway.yaml:4:12", "has more than 65536 bytes"),
    (
        |h| {
            std::fs::remove_file(h.path("edge.pem")).unwrap();
            std::fs::create_dir(h.path("edge.pem")).unwrap();
        },
        "gateway.yaml:4:12",
        "is not a file",
    ),
    (
        |h| {
            std::fs::remove_file(h.path("edge.pem")).unwrap();
            assert!(Command::new("mkfifo").arg(h.path("edge.pem")).status().unwrap().success());
        },
        "gateway.yaml:4:12",
        "is not a file",
    ),
    (|h| h.write("edge.key", &h.read("ca.key")), "gateway.yaml:5:10", "not that of the certificate"),
    (|h| h.write("edge.key", &h.read("edge.pem")), "gateway.yaml:5:10", "have chain and key been exchanged"),
    (|h| h.write("edge.key", "nothing"), "gateway.yaml:5:10", "holds no private key"),
    (
        |h| h.write("edge.key", &[h.read("edge.key"), h.read("ca.key")].concat()),
        "gateway.yaml:5:10",
        "holds 2 private keys",
    ),
    (
        |h| drop(h.openssl("pkey -in ../edge.key -aes256 -passout pass:x -out edge.key")),
        "gateway.yaml:5:10",
        "has a passphrase",
    ),
    (
        |h| drop(h.openssl("rsa -aes256 -passout pass:x -traditional -in ../rsa.key -out edge.key")),
        "gateway.yaml:5:10",
        "has a passphrase",
    ),
    (
        |h| {
            h.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out edge.key");
            h.sign("edge", "subjectAltName = DNS:edge.test\n", 25);
        },
        "gateway.yaml:5:10",
        "EC on P-256 or P-384",
    ),
    (
        |h| {
            h.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out edge.key");
            h.sign("edge", "subjectAltName = DNS:edge.test\n", 25);
        },
        "gateway.yaml:5:10",
        "RSA of 2048 to 4096 bits",
    ),
    (|h| h.write("ca.pem", &h.read("edge.pem")), "gateway.yaml:8:19", "(CN=edge) is not an authority's"),
    (|h| h.write("ours.crl", "garbage"), "gateway.yaml:9:19", "holds no revocation list"),
    (
        |h| h.write("ours.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
        "gateway.yaml:9:19",
        "damaged",
    ),
    (
        |h| {
            // An authority of the same name with another key.
            let other = Authority::new(&h.path("x/house"), 30);
            other.list("ours", 10);
            h.write("ours.crl", &other.read("ours.crl"));
        },
        "gateway.yaml:9:19",
        "not signed with that authority's key",
    ),
    (
        |h| {
            h.write(
                "gateway.yaml",
                &h.read("gateway.yaml").replace("edge.key\n", "edge.key\n    ocsp_response: edge.ocsp\n"),
            );
            h.write("edge.ocsp", "garbage");
        },
        "gateway.yaml:6:20",
        "holds no OCSP response",
    ),
    (
        |h| {
            h.write(
                "gateway.yaml",
                &h.read("gateway.yaml").replace("edge.key\n", "edge.key\n    ocsp_response: other.ocsp\n"),
            );
            h.issue("other", "DNS:other.test", 25);
            h.respond("other", 5);
        },
        "gateway.yaml:6:20",
        "about another certificate",
    ),
];

#[test]
fn everything_that_can_be_wrong_is_told_where_it_is_named() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let template = house(directory.path());
    template.openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out ../rsa.key");
    assert_eq!(told(&template), Vec::<String>::new());
    let key = template.read("edge.key");
    let secret = key.lines().nth(1).unwrap();
    let mut wrong = Vec::new();
    for (at, (spoil, place, sentence)) in ROWS.iter().enumerate() {
        let copy = directory.path().join("copies").join("house");
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        for (name, file) in [("rsa.key", "../rsa.key"), ("edge.key", "edge.key"), ("edge.pem", "edge.pem")] {
            std::fs::write(directory.path().join("copies").join(name), template.read(file)).unwrap();
        }
        let status = Command::new("cp").arg("-a").args([&template.path(""), &copy]).status();
        assert!(status.unwrap().success());
        let house = Authority::at(&copy);
        spoil(&house);
        match told(&house).as_slice() {
            [one] if one.starts_with(place) && one.contains(sentence) && !one.contains(secret) => {}
            found => wrong.push(format!("row {at}: {place} should say {sentence:?}, found {found:#?}")),
        }
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_key_that_stands_where_a_path_should_is_not_repeated() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    house.openssl("genpkey -algorithm ED25519 -out small.key");
    for name in ["edge.key", "small.key"] {
        let key = house.read(name);
        let bare: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        let lines: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
        for wrong in [bare.clone(), format!("keys/{bare}"), lines.join("\n"), format!("# mine\n{key}")] {
            house.write("gateway.yaml", &DOCUMENT.replace("key: edge.key", "key: \"${KEY}\""));
            let environment = |name: &str| (name == "KEY").then(|| wrong.clone());
            let known = Known::default();
            let compiled =
                compile(&house.path("gateway.yaml"), &environment, &known, &KeySets::default(), SystemTime::now());
            let text = format!("{:?} {:?}", compiled.outcome, compiled.warnings);
            assert!(lines.iter().all(|line| !text.contains(line)), "{text}");
        }
    }
}

#[test]
fn kinds_of_keys_that_can_be_used_are() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    for kind in [
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out edge.key",
        "genpkey -algorithm ED25519 -out edge.key",
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out edge.key",
        "genrsa -traditional -out edge.key 2048",
        "ecparam -name prime256v1 -genkey -out edge.key",
    ] {
        house.openssl(kind);
        house.sign("edge", "subjectAltName = DNS:edge.test\n", 25);
        assert_eq!(told(&house), Vec::<String>::new(), "{kind}");
    }
}

#[test]
fn a_chain_with_its_intermediate_is_sound_in_its_order_only() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    house.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out between.key");
    house.sign("between", "basicConstraints = critical, CA:TRUE\n", 25);
    house.openssl("x509 -req -in edge.csr -CA between.pem -CAkey between.key -CAcreateserial -days 20 -extfile edge.cnf -out leaf.pem");
    house.write("edge.pem", &[house.read("leaf.pem"), house.read("between.pem")].concat());
    assert_eq!(told(&house), Vec::<String>::new());
    house.write("edge.pem", &[house.read("leaf.pem"), house.read("between.pem"), house.read("ca.pem")].concat());
    assert_eq!(told(&house), Vec::<String>::new(), "the authority's own is superfluous, not wrong");
    house.write("edge.pem", &[house.read("between.pem"), house.read("leaf.pem")].concat());
    let told = told(&house);
    assert!(told.iter().any(|one| one.contains("has not signed the one before it")), "{told:?}");
    assert!(told.iter().any(|one| one.contains("not that of the certificate")), "{told:?}");
}

#[test]
fn a_client_for_whom_several_issuers_may_speak_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.yaml");
    let warned = |issuers: &str, subscribed: &str| {
        let text = format!(
            "version: 1\n\
             listeners: [{{name: public, bind: \"127.0.0.1:8080\"}}]\n\
             issuers:\n\
             \x20 - {{name: corp, issuer: \"https://a.example/\", jwks: \"https://a.example/jwks\"}}\n\
             \x20 - {{name: partner, issuer: \"https://b.example/\", jwks: \"https://b.example/jwks\"}}\n\
             apis:\n\
             \x20 - {{name: chat, context: /chat, endpoints: {{production: {{url: \"ws://127.0.0.1:9/\"}}}}, \
                      authentication: {{accept: [bearer], issuers: [{issuers}]}}}}\n\
             applications:\n\
             \x20 - {{name: mobile, clients: [{{id: bound, issuer: corp}}, {{id: free}}]}}\n\
             subscriptions: [{subscribed}]\n"
        );
        std::fs::write(&path, text).unwrap();
        let (known, keys) = (Known::default(), KeySets::default());
        let compiled = compile(&path, &|_| None, &known, &keys, SystemTime::now());
        assert!(compiled.outcome.is_ok(), "{:?}", compiled.outcome);
        compiled.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let subscribed = "{application: mobile, api: chat}";
    for issuers in ["", "corp, partner"] {
        let told = warned(issuers, subscribed);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("\"chat\"") && told[0].contains("\"free\"") && told[0].contains(":9:"), "{told:?}");
    }
    assert_eq!(warned("partner", subscribed), Vec::<String>::new(), "nobody else may speak for it");
    assert_eq!(warned("", ""), Vec::<String>::new(), "it has subscribed to nothing");
}

#[test]
fn dates_are_errors_for_what_is_new_and_warnings_for_what_is_published() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    let known = Known::of(&snapshot(&house));
    let nothing = Known::default();

    let soon = compiled(&house, &nothing, 10 * DAY);
    assert!(soon.outcome.is_ok());
    let edge: Vec<_> = warned(&soon).into_iter().filter(|one| one.contains("certificate \"edge\"")).collect();
    assert_eq!(edge.len(), 1, "{:?}", warned(&soon));
    assert!(edge[0].contains("gateway.yaml:4:12") && edge[0].contains("in 14 days"), "{edge:?}");

    let past = compiled(&house, &nothing, 26 * DAY);
    let told = past.outcome.unwrap_err();
    assert!(told.len() == 1 && told[0].message.contains("(CN=edge) ran out at 20"), "{told:?}");
    let past = compiled(&house, &known, 26 * DAY);
    assert!(past.outcome.is_ok(), "what is published may run out without standing in the way of the rest");
    assert!(warned(&past).iter().any(|one| one.contains("(CN=edge) ran out at 20")), "{:?}", warned(&past));
    assert!(
        warned(&past).iter().any(|one| one.contains("certificates of that issuer are refused")),
        "{:?}",
        warned(&past)
    );

    house.issue("edge", "DNS:edge.test", 25);
    assert!(compiled(&house, &known, 26 * DAY).outcome.is_err(), "another one is new");

    let early = compile(&house.path("gateway.yaml"), &|_| None, &nothing, &KeySets::default(), SystemTime::now() - DAY);
    assert!(early.again.is_some_and(|again| again <= SystemTime::now()), "{:?}", early.again);
    assert!(early.outcome.unwrap_err().iter().any(|one| one.message.contains("is not valid before")));

    house.write("gateway.yaml", &format!("{DOCUMENT}settings: {{ certificate_expiry_warning: 0 }}\n"));
    let quiet = compiled(&house, &nothing, 24 * DAY);
    let about_expiry = |one: &String| one.contains("runs out");
    assert_eq!(warned(&quiet).iter().filter(|one| about_expiry(one)).count(), 0, "{:?}", warned(&quiet));
}

#[test]
fn what_is_no_error_is_a_warning_with_its_place() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    assert_eq!(warned(&compiled(&house, &Known::default(), Duration::ZERO)), Vec::<String>::new());
    std::fs::set_permissions(house.path("edge.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    house.sign("edge", "basicConstraints = CA:TRUE\nextendedKeyUsage = clientAuth\n", 25);
    let upstreams =
        "upstreams:\n  - { name: test, endpoints: [{ url: \"wss://a/?token=hunter2\", verify_certificate: false }] }\n";
    house.write("gateway.yaml", &format!("{DOCUMENT}{upstreams}"));
    let warned = warned(&compiled(&house, &Known::default(), Duration::ZERO));
    assert_eq!(warned.len(), 5, "{warned:#?}");
    for (place, sentence) in [
        ("gateway.yaml:5:10", "edge.key: this private key's file is open to everybody (mode 644)"),
        ("gateway.yaml:4:12", "covers no server name"),
        ("gateway.yaml:4:12", "authority's certificate"),
        ("gateway.yaml:4:12", "lacks serverAuth"),
        ("gateway.yaml:15:84", "whatever certificate wss://a/ shows is believed"),
    ] {
        assert!(
            warned.iter().any(|one| one.contains(place) && one.contains(sentence)),
            "{place} {sentence}: {warned:#?}"
        );
    }
    assert!(warned.iter().all(|one| !one.contains("hunter2")), "{warned:#?}");
}

#[test]
fn a_certificate_that_no_suite_goes_with_is_warned_about() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    for (suites, is_warned) in [
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", true),
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", false),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256", false),
    ] {
        let tls = format!("tls: {{ cipher_suites: [{suites}], ");
        house.write("gateway.yaml", &DOCUMENT.replace("tls: { ", &tls));
        let warned = warned(&compiled(&house, &Known::default(), Duration::ZERO));
        assert_eq!(warned.len(), usize::from(is_warned), "{suites}: {warned:?}");
        assert!(warned.iter().all(|one| one.contains("none of cipher_suites goes with that")), "{warned:?}");
    }
}

#[test]
fn what_is_published_is_told_of_until_it_ends_and_after() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    let (snapshot, now) = (snapshot(&house), SystemTime::now());
    assert_eq!(expiry::warnings(&snapshot, now), Vec::<String>::new());
    let soon = expiry::warnings(&snapshot, now + 5 * DAY);
    assert!(
        soon.len() == 1 && soon[0].contains("CN=edge runs out at 20") && soon[0].ends_with("in 19 days"),
        "{soon:?}"
    );
    let late = expiry::warnings(&snapshot, now + 31 * DAY);
    assert!(late.len() == 2 && late.iter().all(|one| one.contains("ran out at 20")), "{late:?}");
    for (later, left) in [(0, 24), (24, 0), (25, -1), (26, -2)] {
        assert_eq!(
            expiry::certificate_standings(&snapshot, now + later * DAY)[0].days_left,
            left,
            "after {later} days"
        );
    }
    let authorities = &expiry::authorities_standings(&snapshot, now)[0];
    assert_eq!((authorities.days_left, authorities.revocation_lists), (29, 1));
    assert_eq!(authorities.used_by, ["listener public"]);
}

#[test]
fn what_was_published_is_remembered_over_a_restart() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    let state = directory.path().join("state");
    assert_eq!(remembered_certificates(&state), Known::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let office = Office::new(house.path("gateway.yaml"), state.clone(), "run".into(), Instant::now()).unwrap();
        assert!(office.reload("a test asked").await.generation.is_some());
    });
    assert_eq!(remembered_certificates(&state), Known::of(&snapshot(&house)));
    let text = std::fs::read_to_string(state.join("controlplane-certificates.json")).unwrap();
    assert!(house.read("edge.key").lines().all(|line| !text.contains(line)));
}

#[test]
fn a_certificate_that_comes_too_early_is_published_when_its_time_comes() {
    if !is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let house = house(directory.path());
    let day = Command::new("date").args(["-u", "-d", "+3 seconds", "+%Y%m%d%H%M%SZ"]).output().unwrap().stdout;
    let from = String::from_utf8(day).unwrap();
    let dates = format!("-startdate {} -days 25", from.trim());
    house.openssl(&format!(
        "ca -batch -notext -config openssl.cnf -name register -cert ca.pem -keyfile ca.key -in edge.csr -extfile edge.cnf {dates} -out edge.pem"
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let (file, state) = (house.path("gateway.yaml"), directory.path().join("state"));
        let office = Arc::new(Office::new(file, state, "run".into(), Instant::now()).unwrap());
        let mut published = office.publisher().watch();
        assert!(office.reload("a test asked").await.generation.is_none(), "it is not valid yet");
        let following = tokio::spawn(watch::follow(Arc::clone(&office)));
        let waited = tokio::time::timeout(Duration::from_secs(20), published.wait_for(Option::is_some)).await;
        assert!(waited.is_ok(), "nobody looked again");
        following.abort();
    });
}
