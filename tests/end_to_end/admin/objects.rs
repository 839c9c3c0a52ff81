//! Objects of every kind through every route: created, shown, replaced, changed, deleted, and who may not.

use serde_json::{Value, json};

use crate::kit::people::sha256;
use crate::kit::{Admin, until};

use super::gateway;

/// An object of a kind: its family, its path, what creates it, a patch with what it changes.
fn kinds() -> Vec<(&'static str, &'static str, Value, Value)> {
    let api = json!({
        "name": "chat", "version": "v1", "context": "/chat",
        "endpoints": { "production": { "url": "ws://127.0.0.1:9/" } }, "authentication": { "accept": ["api_key"] },
    });
    vec![
        ("apis", "/apis/chat:v1", api, json!({ "enabled": false })),
        ("applications", "/applications/mobile", json!({ "name": "mobile" }), json!({ "owner": "ann" })),
        (
            "subscriptions",
            "/subscriptions/mobile/chat:v1",
            json!({ "application": "mobile", "api": "chat:v1" }),
            json!({ "enabled": false }),
        ),
        ("keys", "/keys/mobile-1", json!({ "name": "mobile-1", "application": "mobile" }), json!({ "user": "alice" })),
        (
            "users",
            "/users/alice",
            json!({ "name": "alice", "new_password": "secret" }),
            json!({ "scopes": ["chat:read"] }),
        ),
        (
            "revocations",
            "/revocations/token:partner%2Fab%2Fcd",
            json!({ "revoked": "token:partner/ab/cd" }),
            json!({ "reason": "lost" }),
        ),
        (
            "plans",
            "/plans/Gold",
            json!({ "name": "Gold", "limits": [{ "rate": "100/s", "burst": 200 }, { "quota": "50000/day" }] }),
            json!({ "sessions_max": 7 }),
        ),
        ("denials", "/denials/mallory", json!({ "name": "mallory", "user": "mallory" }), json!({ "action": "drop" })),
    ]
}

#[test]
fn every_kind_is_created_shown_replaced_changed_and_deleted() {
    let mut gateway = gateway();
    let admin = Admin::of(&gateway);
    for (family, path, new, patch) in kinds() {
        let target = format!("/{family}");
        assert_eq!(admin.get(path).problem(), (404, "not-found".into()), "{path}");
        let created = admin.post(&target, &new);
        assert_eq!(created.status, 201, "{created:?}");
        assert_eq!(created.header("location"), Some(format!("/api/v1{path}").as_str()));
        let etag = created.header("etag").expect("an entity tag").to_owned();
        assert!(created.header("framegate-generation").is_some_and(|number| number.parse::<u64>().is_ok()));
        assert_eq!(admin.post(&target, &new).problem(), (409, "exists".into()), "{path}");

        let shown = admin.get(path);
        assert_eq!((shown.status, shown.header("etag")), (200, Some(etag.as_str())), "{shown:?}");
        assert_eq!(shown.json()["_meta"]["origin"], "stored");
        assert_eq!(format!("\"{}\"", shown.json()["_meta"]["etag"].as_str().expect("a text")), etag);
        let same = admin.ask("GET", path, &[("If-None-Match", &etag)], None);
        assert_eq!((same.status, same.body.as_str()), (304, ""));
        assert_eq!(admin.ask("HEAD", path, &[], None).body, "");

        // What was shown may be sent back as it is: nothing changes, not even what is not shown.
        let back = admin.send("PUT", path, &[("If-Match", &etag)], &shown.json());
        assert_eq!((back.status, back.header("etag")), (200, Some(etag.as_str())), "{back:?}");
        assert_eq!(admin.send("PUT", path, &[("If-None-Match", "*")], &shown.json()).problem().0, 412);

        let changed = admin.send("PATCH", path, &[("If-Match", &etag)], &patch);
        assert_eq!(changed.status, 200, "{changed:?}");
        for (field, value) in patch.as_object().expect("an object") {
            assert_eq!(changed.json()[field], *value, "{changed:?}");
        }
        let newer = changed.header("etag").expect("an entity tag").to_owned();
        assert_ne!(newer, etag);
        for (method, body) in [("PUT", shown.json()), ("PATCH", patch.clone())] {
            let late = admin.send(method, path, &[("If-Match", &etag)], &body);
            assert_eq!(late.problem(), (412, "precondition-failed".into()), "{method}: {late:?}");
        }
        assert_eq!(admin.ask("DELETE", path, &[("If-Match", &etag)], None).problem().0, 412);
        let listed = admin.get(&target).json();
        let origins: Vec<_> =
            listed["items"].as_array().expect("a list").iter().map(|one| &one["_meta"]["origin"]).collect();
        let has = |origin: &str| origins.iter().any(|one| *one == origin);
        assert!(has("stored") && has("declared"), "{listed}");
    }
    // Others refer to an application and to an API; they go last, or with them.
    let refused = admin.delete("/applications/mobile");
    assert_eq!(refused.problem(), (409, "conflict".into()));
    assert!(refused.body.contains("mobile-1") && refused.body.contains("chat:v1"), "{refused:?}");
    for (_, path, ..) in kinds().into_iter().rev() {
        let gone = admin.delete(path);
        assert_eq!((gone.status, gone.body.as_str()), (204, ""), "{path}: {gone:?}");
        assert_eq!(admin.delete(path).problem().0, 404, "{path}");
    }
    gateway.probe();
}

#[test]
fn a_put_creates_what_is_not_there_and_a_name_cannot_be_changed() {
    let gateway = gateway();
    let admin = Admin::of(&gateway);
    let made = admin.send("PUT", "/applications/desk", &[("If-None-Match", "*")], &json!({ "name": "desk" }));
    assert_eq!((made.status, made.header("location")), (201, Some("/api/v1/applications/desk")));
    assert_eq!(
        admin.send("PUT", "/applications/none", &[("If-Match", "*")], &json!({ "name": "none" })).problem().0,
        412
    );
    for (method, body) in [("PUT", json!({ "name": "table" })), ("PATCH", json!({ "name": "table" }))] {
        let renamed = admin.send(method, "/applications/desk", &[], &body);
        assert_eq!(renamed.problem(), (422, "invalid".into()), "{renamed:?}");
    }
    assert_eq!(admin.get("/applications/table").status, 404);
    let cascade = admin.delete("/applications/desk?cascade=true");
    assert_eq!(cascade.status, 204, "{cascade:?}");
}

#[test]
fn what_a_file_declares_is_read_and_not_changed() {
    let gateway = gateway();
    let admin = Admin::of(&gateway);
    let file = gateway.setup().directory().join("config.yaml").display().to_string();
    for (family, path, body) in [
        ("apis", "/apis/filed:v1", json!({ "name": "filed", "version": "v1", "context": "/x", "endpoints": {} })),
        ("applications", "/applications/filed", json!({ "name": "filed" })),
        ("subscriptions", "/subscriptions/filed/filed:v1", json!({ "application": "filed", "api": "filed:v1" })),
        ("keys", "/keys/filed-1", json!({ "name": "filed-1", "application": "filed" })),
        ("users", "/users/filed", json!({ "name": "filed", "new_password": "x" })),
        ("revocations", "/revocations/user:filed", json!({ "revoked": "user:filed" })),
    ] {
        let shown = admin.get(path);
        let meta = shown.json()["_meta"].clone();
        assert_eq!((&meta["origin"], &meta["file"]), (&json!("declared"), &json!(file)), "{shown:?}");
        let listed = admin.get(&format!("/{family}")).json();
        assert!(listed["items"].as_array().is_some_and(|all| all.contains(&shown.json())), "{listed}");
        for refused in [
            admin.send("PUT", path, &[], &body),
            admin.send("PATCH", path, &[], &json!({ "enabled": true, "reason": null })),
            admin.delete(path),
            admin.post(&format!("/{family}"), &body),
        ] {
            assert_eq!(refused.status, 409, "{refused:?}");
            let (_, word) = refused.problem();
            assert!(word == "declared" && refused.json()["file"] == file, "{refused:?}");
            assert!(refused.body.contains(&file), "{refused:?}");
        }
        assert_eq!(admin.get(path).json(), shown.json());
    }
}

#[test]
fn a_secret_is_told_once_and_no_hash_ever() {
    let gateway = gateway();
    let admin = Admin::of(&gateway);
    admin.post("/applications", &json!({ "name": "mobile" }));
    let made = admin.post("/keys", &json!({ "name": "m1", "application": "mobile" }));
    let key = made.json()["key"].as_str().expect("a key").to_owned();
    assert!(key.starts_with("fgk_") && key.len() == 47, "{made:?}");
    let sent = admin.post("/keys", &json!({ "name": "m2", "application": "mobile", "sha256": sha256("elsewhere") }));
    assert_eq!((sent.status, sent.json().get("key")), (201, None), "{sent:?}");
    let client = admin.post("/applications/mobile/clients", &json!({ "environment": "sandbox" }));
    assert_eq!(client.status, 201, "{client:?}");
    let (id, secret) = (client.json()["id"].clone(), client.json()["client_secret"].clone());
    let (id, secret) = (id.as_str().expect("an id").to_owned(), secret.as_str().expect("a secret").to_owned());
    let place = client.header("location").expect("a place").trim_start_matches("/api/v1").to_owned();
    assert_eq!(admin.get(&place).json(), json!({ "id": id, "environment": "sandbox", "has_secret": true }));
    let open = admin.post("/applications/mobile/clients", &json!({ "id": "open", "secret": null })).json();
    assert_eq!((&open["has_secret"], open.get("client_secret")), (&json!(false), None));
    assert_eq!(admin.post("/applications/mobile/clients", &json!({ "id": "open" })).problem().0, 409);
    let refused = admin.post("/applications/mobile/clients", &json!({ "id": "of-another", "issuer": "nobody" }));
    assert!(refused.status == 422 && refused.body.contains("there is no issuer"), "{refused:?}");
    let refused = admin.post("/users", &json!({ "name": "open" }));
    assert!(refused.status == 422 && refused.body.contains("(stored in the catalogue)"), "{refused:?}");
    admin.post("/users", &json!({ "name": "ada" }));
    let refused = admin.post("/applications/mobile/clients", &json!({ "id": "ada" }));
    assert!(
        refused.status == 422 && refused.body.contains("user \\\"ada\\\" (stored in the catalogue)"),
        "{refused:?}"
    );
    let refused = admin.post("/applications/mobile/clients", &json!({ "id": "x", "grants": ["implicit"] }));
    assert_eq!(
        (refused.status, refused.json()["errors"][0]["pointer"].as_str()),
        (422, Some("/grants/0")),
        "{refused:?}"
    );
    admin.post("/users", &json!({ "name": "alice", "new_password": "hunter2 and more" }));

    // Changing other things of them loses no secret: the hashes in the database stay.
    let hashes = || {
        let text = |path: &str| admin.get(path).json()["_meta"]["etag"].clone();
        [text("/keys/m1"), text("/users/alice"), text("/applications/mobile")]
    };
    let before = hashes();
    for path in ["/keys/m1", "/users/alice", "/applications/mobile"] {
        let shown = admin.get(path).json();
        assert_eq!(admin.send("PUT", path, &[], &shown).status, 200);
        let off = admin.send("PATCH", path, &[], &json!({ "enabled": false }));
        assert_eq!((off.status, &off.json()["enabled"]), (200, &json!(false)), "{off:?}");
        assert_eq!(admin.send("PATCH", path, &[], &json!({ "enabled": null })).status, 200);
    }
    assert_eq!(hashes(), before);
    assert_eq!(admin.send("PATCH", "/users/alice", &[], &json!({ "password": null })).json()["has_password"], false);
    assert_eq!(admin.delete(&place).status, 204);
    assert_eq!(admin.delete(&place).problem().0, 404);

    // Nothing that is told later has a secret, or a hash.
    let told: String =
        ["/keys", "/users", "/applications", "/keys/m1", "/users/alice", "/applications/mobile", "/status"]
            .into_iter()
            .map(|path| admin.get(path).body)
            .collect();
    let said = gateway.said("controlplane") + &gateway.said("dataplane");
    for hidden in
        [&key, &secret, "hunter2 and more", &sha256(&key), &sha256(&secret), "$argon2id", &sha256("elsewhere")]
    {
        assert!(!told.contains(hidden) && !said.contains(hidden), "{hidden} is told");
    }
    let line = said.lines().find(|line| line.contains("admin: create key") && line.contains("m1"));
    let line = line.expect("a line of the log");
    assert!(line.contains("user ") && line.contains("generation="), "{line}");
}

#[test]
fn an_object_that_is_not_sound_is_told_with_every_place() {
    let gateway = gateway();
    let admin = Admin::of(&gateway);
    let bad = admin.post("/keys", &json!({ "name": 5, "application": "filed", "expire": "x", "expires": "tomorrow" }));
    assert_eq!(
        (bad.problem(), bad.header("content-type")),
        ((422, "invalid".into()), Some("application/problem+json"))
    );
    let pointers: Vec<_> =
        bad.json()["errors"].as_array().expect("errors").iter().map(|one| one["pointer"].clone()).collect();
    assert!(["/name", "/expires", "/expire"].iter().all(|pointer| pointers.contains(&json!(pointer))), "{bad:?}");
    assert!(bad.body.contains("did you mean") && !bad.body.contains("tomorrow"), "no value is repeated: {bad:?}");
    let missing = admin.post("/apis", &json!({ "name": "a", "endpoints": { "production": { "uri/l~": "ws://a/" } } }));
    let pointers: Vec<_> =
        missing.json()["errors"].as_array().expect("errors").iter().map(|one| one["pointer"].clone()).collect();
    assert_eq!(pointers, ["/context", "/endpoints/production/uri~1l~0"], "{missing:?}");
    let renamed = admin.send("PUT", "/users/alice", &[], &json!({ "name": "bob" }));
    assert_eq!((renamed.status, renamed.json()["errors"][0]["pointer"].as_str()), (422, Some("/name")), "{renamed:?}");
    let unknown = admin.post("/subscriptions", &json!({ "application": "nobody", "api": "chat:v9" }));
    let pointers: Vec<_> =
        unknown.json()["errors"].as_array().expect("errors").iter().map(|one| one["pointer"].clone()).collect();
    assert_eq!((unknown.status, pointers), (422, vec![json!("/application"), json!("/api")]), "{unknown:?}");
    // Two APIs at one context: both are named.
    let api = |name: &str| json!({ "name": name, "context": "/same", "endpoints": { "production": { "url": "ws://127.0.0.1:9/" } } });
    assert_eq!(admin.post("/apis", &api("one")).status, 201);
    let second = admin.post("/apis", &api("two"));
    assert!(second.status == 422 && second.body.contains("one") && second.body.contains("two"), "{second:?}");

    let json = [("Content-Type", "application/json")];
    let ask =
        |target: &str, fields: &[(&str, &str)], body: &str| admin.ask("POST", target, fields, Some(body)).problem();
    assert_eq!(ask("/keys", &json, "{\"name\": \"hunter2\", oops"), (400, "bad-request".into()));
    assert!(!admin.ask("POST", "/keys", &json, Some("hunter2")).body.contains("hunter2"));
    assert_eq!(ask("/keys", &json, "[]"), (422, "invalid".into()));
    assert_eq!(ask("/keys", &[("Content-Type", "text/plain")], "{}"), (415, "unsupported-media-type".into()));
    assert_eq!(ask("/keys", &[], "{}"), (415, "unsupported-media-type".into()));
    assert_eq!(ask("/keys?wate=applied", &json, "{}"), (400, "bad-request".into()));
    assert_eq!(ask("/keys?wait=maybe", &json, "{}"), (400, "bad-request".into()));
    assert_eq!(ask("/keys?wait=applied&timeout=2h", &json, "{}"), (400, "bad-request".into()));
    assert_eq!(admin.send("PATCH", "/applications/x", &[("If-Match", "no quotes")], &json!({})).problem().0, 400);
    assert_eq!(admin.get("/keys?limit=0").problem().0, 400);
    assert_eq!(admin.get("/keys/%ff").problem().0, 400);
    assert_eq!(admin.get("/nothing").problem(), (404, "not-found".into()));
    let wrong = admin.ask("PUT", "/keys", &[], None);
    assert_eq!((wrong.problem(), wrong.header("allow")), ((405, "method-not-allowed".into()), Some("GET, POST, HEAD")));
    // Nothing of all that has changed anything.
    assert_eq!(admin.get("/keys").json()["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all() {
    let gateway = gateway();
    let admin = Admin::of(&gateway);
    let key = |name: &str| json!({ "kind": "key", "put": { "name": name, "application": "desk" } });
    let changes = json!([{ "kind": "application", "put": { "name": "desk" } }, key("d1"), key("d2")]);
    let done = admin.post("/batch?wait=applied", &json!({ "changes": changes }));
    assert_eq!(done.status, 200, "{done:?}");
    let items = done.json()["items"].clone();
    assert_eq!((&items[0]["_meta"]["kind"], &items[1]["name"]), (&json!("application"), &json!("d1")));
    assert!(items[2]["key"].as_str().is_some_and(|key| key.starts_with("fgk_")), "{done:?}");
    assert_eq!(done.json()["_meta"]["applied"], true, "{done:?}");

    let bad = json!([key("d3"), { "kind": "key", "put": { "name": "d4", "application": 5 } }, { "kind": "chair", "put": {} }]);
    let refused = admin.post("/batch", &json!({ "changes": bad }));
    let pointers: Vec<_> =
        refused.json()["errors"].as_array().expect("errors").iter().map(|one| one["pointer"].clone()).collect();
    assert_eq!(
        (refused.status, pointers),
        (422, vec![json!("/changes/1/put/application"), json!("/changes/2/kind")]),
        "{refused:?}"
    );
    let strange = json!([key("d3"), { "kind": "key", "put": { "name": "d4", "application": "nobody" } }]);
    let refused = admin.post("/batch", &json!({ "changes": strange }));
    assert_eq!(refused.json()["errors"][0]["pointer"], "/changes/1/put/application", "{refused:?}");
    assert_eq!(admin.post("/batch", &json!({ "changes": 5 })).json()["errors"][0]["pointer"], "/changes");
    let twice = admin.post("/batch", &json!({ "changes": [key("d3"), key("d1")] }));
    assert_eq!(
        (twice.problem().0, twice.json()["errors"][0]["pointer"].as_str()),
        (409, Some("/changes/1")),
        "{twice:?}"
    );
    assert_eq!(admin.get("/keys/d3").status, 404);
    let etag = admin.get("/keys/d2").json()["_meta"]["etag"].clone();
    let stale = json!([{ "kind": "key", "delete": "d1" }, { "kind": "key", "delete": "d2", "if_match": "0123" }]);
    assert_eq!(admin.post("/batch", &json!({ "changes": stale })).problem().0, 412);
    let all = json!([{ "kind": "key", "delete": "d1" }, { "kind": "key", "delete": "d2", "if_match": etag }]);
    let gone = admin.post("/batch", &json!({ "changes": all })).json();
    assert_eq!(gone["removed"], json!([{ "kind": "key", "id": "d1" }, { "kind": "key", "id": "d2" }]));
    for nothing in [json!({}), json!({ "changes": [] }), json!({ "changes": [{ "kind": "key" }] })] {
        assert_eq!(admin.post("/batch", &nothing).problem().0, 422, "{nothing}");
    }
}

#[test]
fn whoever_waits_hears_what_became_of_it_on_each_node() {
    let mut gateway = gateway();
    let admin = Admin::of(&gateway);
    let made = admin.post("/applications?wait=applied", &json!({ "name": "first" })).json();
    let node = &made["_meta"]["nodes"][0];
    assert_eq!(
        (&made["_meta"]["applied"], &node["node"], &node["outcome"]),
        (&json!(true), &json!("test"), &json!("applied"))
    );
    let generation = admin.get("/generation").json()["generation"]["number"].clone();
    assert_eq!(made["_meta"]["generation"], generation);
    assert_eq!(admin.get("/status").json()["nodes"][0]["generation"]["number"], generation);
    let gone = admin.delete("/applications/first?wait=applied");
    assert_eq!((gone.status, &gone.json()["_meta"]["applied"]), (200, &json!(true)), "{gone:?}");

    // A node that does not answer in time, and then does.
    gateway.signal(libc::SIGSTOP);
    let late = admin.post("/applications?wait=applied&timeout=200ms", &json!({ "name": "second" }));
    gateway.signal(libc::SIGCONT);
    assert_eq!((late.status, &late.json()["_meta"]["applied"]), (201, &json!(false)), "{late:?}");
    assert_eq!(late.json()["_meta"]["nodes"][0]["outcome"], "silent");
    until("the node serves it after all", || {
        admin.get("/status").json()["nodes"][0]["generation"]["number"] == late.json()["_meta"]["generation"]
    });
    gateway.kill_data_plane();
    until("the node has gone", || admin.get("/status").json()["nodes"] == json!([]));
    let alone = admin.post("/applications?wait=applied", &json!({ "name": "third" })).json();
    assert_eq!((&alone["_meta"]["applied"], &alone["_meta"]["nodes"]), (&json!(true), &json!([])));
}

#[test]
fn what_was_created_is_there_after_a_restart() {
    let mut gateway = gateway();
    let admin = Admin::of(&gateway);
    assert_eq!(admin.post("/applications", &json!({ "name": "kept" })).status, 201);
    gateway.kill_control_plane();
    gateway.start_control_plane();
    let socket = gateway.setup().directory().join("admin.sock");
    until("the admin socket answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert_eq!(admin.get("/applications/kept").json()["_meta"]["origin"], "stored");
}
