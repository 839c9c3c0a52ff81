//! Who comes in at which door: tokens, certificates, and what each role may do.

use std::process::Command;

use serde_json::json;

use crate::kit::gateway::framegate;
use crate::kit::people::sha256;
use crate::kit::pki::{self, Authority, Leaf};
use crate::kit::tls::Terms;
use crate::kit::{Admin, Gateway, Port, Setup, Variant, aloud, until};

fn at(setup: Setup, port: &Port) -> Setup {
    setup.environment("controlplane", "FRAMEGATE_ADMIN_TCP", &port.address().to_string())
}

fn write(gateway: &Gateway, name: &str, text: &str) {
    let aside = gateway.setup().directory().join(format!("{name}.new"));
    std::fs::write(&aside, text).expect("a file can be written");
    std::fs::rename(aside, gateway.setup().directory().join(name)).expect("a file can be moved");
}

#[test]
fn a_token_says_who_calls_and_the_file_is_followed() {
    let port = Port::free();
    let setup = at(Setup::new(Variant::Automatic), &port);
    let file = setup.directory().join("tokens");
    let lines =
        format!("# people\noperator {} ann\nread_only {} board\n", sha256("operator-token"), sha256("board-token"));
    std::fs::write(&file, &lines).expect("a file can be written");
    let setup = setup.environment("controlplane", "FRAMEGATE_ADMIN_TOKENS", file.to_str().expect("a path in UTF-8"));
    let gateway = setup.start();
    let nobody = Admin::port(port.address());
    let (ann, board) = (nobody.clone().token("operator-token"), nobody.clone().token("board-token"));

    for stranger in [&nobody, &nobody.clone().token("guess"), &nobody.clone().token(&sha256("operator-token"))] {
        let refused = stranger.get("/keys");
        assert_eq!(refused.problem(), (401, "unauthenticated".into()), "{refused:?}");
        assert!(refused.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{refused:?}");
    }
    let basic = nobody.ask("GET", "/keys", &[("Authorization", "Basic b3BlcmF0b3ItdG9rZW4=")], None);
    assert_eq!(basic.status, 401);
    assert_eq!(nobody.get("/nothing").status, 401, "not even which pages there are");

    assert_eq!(ann.post("/applications", &json!({ "name": "mobile" })).status, 201);
    assert!(gateway.said("controlplane").contains("who=\"token ann\" role=\"operator\" id=\"mobile\""));
    assert_eq!(board.get("/applications/mobile").status, 200);
    assert_eq!(board.ask("HEAD", "/applications", &[], None).status, 200);
    for refused in [
        board.post("/applications", &json!({ "name": "x" })),
        board.send("PATCH", "/applications/mobile", &[], &json!({ "owner": "x" })),
        board.send("PUT", "/applications/mobile", &[], &json!({ "name": "mobile" })),
        board.delete("/applications/mobile"),
        board.post("/batch", &json!({ "changes": [] })),
    ] {
        assert_eq!(refused.problem(), (403, "forbidden-role".into()), "{refused:?}");
    }
    assert!(ann.get("/applications/mobile").json().get("owner").is_none(), "nothing has changed");

    write(&gateway, "tokens", &format!("operator {} ben\n", sha256("board-token")));
    assert_eq!((ann.get("/keys").status, board.delete("/applications/mobile").status), (401, 204));
    write(&gateway, "tokens", "spoiled");
    assert_eq!(board.get("/keys").status, 401, "a file that cannot be read lets nobody in");
    let said = gateway.said("controlplane");
    assert!(said.contains("the new admin tokens are of no use") && !said.contains("board-token"), "{said}");
    assert_eq!(Admin::of(&gateway).get("/keys").status, 200, "the socket asks for none");
}

#[test]
fn a_certificate_says_who_calls() {
    if !pki::is_available() {
        return;
    }
    let port = Port::free();
    let setup = at(Setup::new(Variant::Automatic), &port);
    let authority = Authority::root(setup.directory(), "admin");
    let own = authority.issue(&Leaf::new("office").names(&["DNS:localhost", "DNS:admin.test"]));
    let operator = authority.issue(&Leaf::new("ann").names(&["URI:framegate:operator"]));
    let reader = authority.issue(&Leaf::new("board").names(&["URI:framegate:read_only"]));
    let other = authority.issue(&Leaf::new("edge-1").names(&["DNS:edge-1"]));
    let foreign =
        Authority::root(setup.directory(), "foreign").issue(&Leaf::new("mallory").names(&["URI:framegate:operator"]));
    let path = |path: &std::path::Path| path.to_str().expect("a path in UTF-8").to_owned();
    let setup = setup
        .environment("controlplane", "FRAMEGATE_ADMIN_CERTIFICATE", &path(&own.chain))
        .environment("controlplane", "FRAMEGATE_ADMIN_KEY", &path(&own.key))
        .environment("controlplane", "FRAMEGATE_ADMIN_AUTHORITIES", &path(&authority.certificate()));
    let gateway = setup.start();
    let with = |identity: &pki::Identity| {
        let terms = Terms::default().roots(&authority.certificate()).name(Some("localhost")).identity(identity);
        Admin::tls(port.address(), terms.client())
    };
    let (ann, board) = (with(&operator), with(&reader));
    assert_eq!(ann.post("/applications", &json!({ "name": "mobile" })).status, 201);
    assert!(gateway.said("controlplane").contains("CN=ann\" role=\"operator\""), "the log says who");
    assert_eq!((board.get("/applications/mobile").status, board.delete("/applications/mobile").status), (200, 403));
    assert_eq!(with(&other).get("/keys").problem(), (403, "forbidden-role".into()));
    for stranger in [
        with(&foreign),
        Admin::tls(port.address(), Terms::default().roots(&authority.certificate()).name(Some("localhost")).client()),
    ] {
        assert!(stranger.raw("GET /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").is_none());
    }
    assert!(
        Admin::port(port.address()).raw("GET /api/v1/keys HTTP/1.1\r\nHost: localhost\r\n\r\n").is_none(),
        "not in clear"
    );

    // The names of its certificate are its own; others are not.
    assert_eq!(ann.ask("GET", "/keys", &[("Host", "admin.test:9903")], None).status, 200);
    assert_eq!(ann.ask("GET", "/keys", &[("Host", "evil.test")], None).problem(), (403, "foreign-site".into()));
    assert_eq!(ann.ask("GET", "/keys", &[("Origin", "https://localhost")], None).status, 200);
    assert_eq!(ann.ask("GET", "/keys", &[("Origin", "http://localhost")], None).problem().0, 403);

    // And from a shell.
    let url = format!("https://localhost:{}", port.number);
    let shell = |identity: &pki::Identity, words: &[&str]| {
        let files = [path(&identity.chain), path(&identity.key), path(&authority.certificate())];
        let flags = [
            "--admin",
            &url,
            "--admin-certificate",
            &files[0],
            "--admin-key",
            &files[1],
            "--admin-authorities",
            &files[2],
        ];
        framegate(&[words, &flags].concat())
    };
    let listed = shell(&reader, &["app", "list"]);
    assert!(listed.code == 0 && listed.stdout.contains("mobile"), "{listed:?}");
    let refused = shell(&reader, &["app", "delete", "mobile"]);
    assert_eq!((refused.code, refused.stderr.contains("read_only")), (2, true), "{refused:?}");
    assert_eq!(shell(&operator, &["app", "delete", "mobile"]).code, 0);
    assert_eq!(shell(&foreign, &["app", "list"]).code, 2);
}

#[test]
fn a_door_that_would_let_anybody_in_is_not_opened() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    std::fs::write(path("gateway.yaml"), "version: 1\n").expect("a file can be written");
    std::fs::write(path("tokens"), format!("operator {} ann\n", sha256("x"))).expect("a file can be written");
    std::fs::write(path("spoiled"), "operator ann\n").expect("a file can be written");
    let port = Port::free().address().to_string();
    let (control, state, tokens, spoiled) = (path("control.sock"), path("state"), path("tokens"), path("spoiled"));
    for (flags, said) in [
        (vec!["--admin-tcp", &port], "needs to know somebody"),
        (vec!["--admin-tcp", "0.0.0.0:0", "--admin-tokens", &tokens], "needs TLS"),
        (vec!["--admin-tcp", &port, "--admin-tokens", &spoiled], "spoiled:1: a line is ROLE SHA256 NAME"),
        (vec!["--admin-tcp", &port, "--admin-tokens", "/nowhere"], "cannot be read"),
        (vec!["--admin-tokens", &tokens], "--admin-tcp"),
        (vec!["--admin-tcp", &port, "--admin-certificate", &tokens], "belong together"),
        (vec!["--admin", "https://localhost:1"], "--admin-tcp"),
        (vec!["--admin", &tokens], "is not a socket"),
    ] {
        let places = ["controlplane", &path("gateway.yaml"), "--control", &control, "--state-dir", &state];
        let started = framegate(&[&places[..], &flags].concat());
        assert_eq!((started.code, started.stderr.contains(said)), (2, true), "{flags:?}: {started:?}");
    }
}

#[test]
fn the_socket_is_for_its_owner_and_can_be_left_out() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;

    let gateway = Setup::new(Variant::Automatic).start();
    let socket = gateway.setup().directory().join("admin.sock");
    let mode = std::fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Root may become somebody else, and is then refused as such, whatever the modes of the files say.
    let opened = [(&socket, 0o666), (&gateway.setup().directory().to_owned(), 0o755)]
        .iter()
        .all(|(path, mode)| std::fs::set_permissions(path, PermissionsExt::from_mode(*mode)).is_ok());
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--unix-socket", socket.to_str().expect("a path in UTF-8"), "http://localhost/api/v1/keys"]);
    let other = curl.uid(65534).gid(65534).current_dir("/").output();
    match other.ok().filter(|_| opened).and_then(|output| output.status.code()) {
        None => aloud("skipped: this user may not become another, or there is no curl"),
        Some(code) => {
            assert_ne!(code, 0, "another user is answered");
            until("another user is refused", || {
                gateway.said("controlplane").contains("another user to the admin socket")
            });
        }
    }
    drop(gateway);
    let without = Setup::new(Variant::Automatic).environment("controlplane", "FRAMEGATE_ADMIN", "off").start();
    assert!(!without.setup().directory().join("admin.sock").exists());
}
