//! Saves, crashes and damage, each in a directory of its own.

use proto::snapshot::{Api, Certificate, Config, Listener, Pem, SectionName, Target};

use super::*;

/// A snapshot with an API of each of these names.
fn snapshot(apis: &[&str]) -> Snapshot {
    let endpoint = || Target::Url("ws://127.0.0.1:9001/".parse().unwrap());
    let config = Config {
        version: 1,
        listeners: vec![Listener::new("public", "127.0.0.1:8080".parse().unwrap())],
        apis: apis.iter().map(|name| Api::new(*name, "", format!("/{name}"), endpoint())).collect(),
        ..Config::default()
    };
    Snapshot::check(config).unwrap()
}

fn generation(number: u64) -> Generation {
    Generation { source: "test".into(), number }
}

fn save(store: &mut Store, number: u64, snapshot: &Snapshot, held: &[&Snapshot]) -> Result<(), StoreError> {
    let held = held.iter().flat_map(|snapshot| snapshot.list()).map(|(_, digest)| digest).collect();
    let push = Push::new(generation(number), snapshot, &held);
    store.save(&push.generation, snapshot, push.bodies)
}

fn loaded(store: &mut Store) -> Option<(u64, Digest)> {
    store.load().unwrap().map(|(generation, snapshot)| (generation.number, snapshot.checksum()))
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory.join("sections"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_store_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("a/b"), true).unwrap();
    assert_eq!(loaded(&mut store), None);
}

#[test]
fn what_was_saved_is_loaded_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (snapshot(&["a", "b"]), snapshot(&["b", "c"]));
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &one, &[]).unwrap();
    save(&mut store, 2, &two, &[&one]).unwrap();
    drop(store);
    let mut store = Store::open(directory.path(), true).unwrap();
    assert_eq!(loaded(&mut store), Some((2, two.checksum())));
    let mut named: Vec<_> = two.list().iter().map(|(_, digest)| digest.to_string()).collect();
    named.sort();
    assert_eq!(files(directory.path()), named, "and nothing else is kept");
}

#[test]
fn a_large_snapshot_is_saved_too() {
    let directory = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..40).map(|n| format!("api-{n}")).collect();
    let large = snapshot(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &large, &[]).unwrap();
    assert_eq!(loaded(&mut store), Some((1, large.checksum())));
}

#[test]
fn two_data_planes_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    assert!(matches!(Store::open(directory.path(), true), Err(StoreError::InUse(_))));
    drop(store);
    assert!(Store::open(directory.path(), true).is_ok());
}

#[test]
fn a_file_that_is_cut_anywhere_is_noticed_and_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let one = snapshot(&["a"]);
    let mut paths = vec![directory.path().join("current")];
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &one, &[]).unwrap();
    paths.extend(files(directory.path()).iter().map(|name| directory.path().join("sections").join(name)));
    for path in paths {
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(whole.len().div_ceil(40)).chain([whole.len() - 1]) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = store.load().unwrap_err();
            assert!(matches!(error, StoreError::Unusable { .. }), "{} at {length}: {error}", path.display());
            assert!(directory.path().join("unusable/current").exists());
            assert_eq!(loaded(&mut store), None, "the store is empty now, and works:");
            save(&mut store, 1, &one, &[]).unwrap();
        }
        assert_eq!(loaded(&mut store), Some((1, one.checksum())));
    }
}

#[test]
fn a_byte_that_changed_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let one = snapshot(&["a"]);
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &one, &[]).unwrap();
    let path = directory.path().join("current");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"number\":1", "\"number\":2")).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Unusable { .. })));
}

#[test]
fn a_section_that_is_missing_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &snapshot(&["a"]), &[]).unwrap();
    fs::remove_file(directory.path().join("sections").join(&files(directory.path())[0])).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Unusable { .. })));
}

#[test]
fn a_form_of_the_future_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), true).unwrap();
    let one = snapshot(&["a"]);
    save(&mut store, 1, &one, &[]).unwrap();
    let future = Current { form: 2, generation: generation(1), checksum: one.checksum(), sections: one.list() };
    let path = directory.path().join("current");
    fs::write(&path, future.to_text(&path).unwrap()).unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(error.contains("form 2"), "{error}");
}

#[test]
fn a_crash_before_the_swap_leaves_the_old_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (snapshot(&["a"]), snapshot(&["b"]));
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &one, &[]).unwrap();
    // What a save of the second would have done until just before its rename of `current`.
    for (name, (digest, section)) in two.sections() {
        if *name != SectionName::Settings {
            fs::write(directory.path().join("sections").join(digest.to_string()), section.encode()).unwrap();
        }
    }
    fs::write(directory.path().join("current.tmp"), b"half of").unwrap();
    drop(store);
    let mut store = Store::open(directory.path(), true).unwrap();
    assert_eq!(loaded(&mut store), Some((1, one.checksum())));
    save(&mut store, 2, &two, &[&one]).unwrap();
    assert_eq!(loaded(&mut store), Some((2, two.checksum())));
}

#[test]
fn what_a_failed_save_could_not_write_is_written_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two, three) = (snapshot(&["a"]), snapshot(&["a", "b"]), snapshot(&["a", "b", "c"]));
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &one, &[]).unwrap();
    // A directory where the new `current` should be written makes the save fail, whoever runs the test.
    fs::create_dir(directory.path().join("current.tmp")).unwrap();
    assert!(matches!(save(&mut store, 2, &two, &[&one]), Err(StoreError::Io { .. })));
    assert_eq!(loaded(&mut store), Some((1, one.checksum())));
    fs::remove_dir(directory.path().join("current.tmp")).unwrap();
    // The section of `b` is on disk or in memory: the third push does not carry it.
    save(&mut store, 3, &three, &[&two]).unwrap();
    assert_eq!(loaded(&mut store), Some((3, three.checksum())));
}

#[test]
fn two_sections_of_the_same_bytes_are_stored_once_and_loaded_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = snapshot(&["a"]).to_config();
    config.applications = serde_json::from_str(r#"[{"name": "mobile"}]"#).unwrap();
    config.users = serde_json::from_str(r#"[{"name": "mobile"}]"#).unwrap();
    let both = Snapshot::check(config).unwrap();
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &both, &[]).unwrap();
    drop(store);
    let mut store = Store::open(directory.path(), true).unwrap();
    assert_eq!(loaded(&mut store), Some((1, both.checksum())));
    assert_eq!(files(directory.path()).len() + 1, both.list().len());
}

#[test]
fn a_section_that_has_gone_from_the_disk_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let one = snapshot(&["a"]);
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &one, &[]).unwrap();
    fs::remove_file(directory.path().join("sections").join(&files(directory.path())[0])).unwrap();
    save(&mut store, 2, &one, &[&one]).unwrap();
    assert_eq!(loaded(&mut store), Some((2, one.checksum())));
}

/// A snapshot with a certificate whose key is these words.
fn with_key(key: &str) -> Snapshot {
    let pem = |text: &str| Pem::Text(format!("-----BEGIN X-----\n{text}\n-----END X-----\n"));
    let mut config = snapshot(&["a"]).to_config();
    config.certificates =
        vec![Certificate { name: "edge".into(), chain: pem("chain"), key: pem(key), ocsp_response: None }];
    Snapshot::check(config).unwrap()
}

/// Whether a word stands in any file of the directory, and in any that others may read.
fn stands_in(directory: &Path, word: &str) -> (bool, bool) {
    let mut found = (false, false);
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.metadata().unwrap();
        if metadata.is_dir() {
            let inner = stands_in(&path, word);
            found = (found.0 || inner.0, found.1 || inner.1 || metadata.mode() & 0o077 != 0);
        } else if fs::read(&path).unwrap().windows(word.len()).any(|window| window == word.as_bytes()) {
            found = (true, found.1 || metadata.mode() & 0o077 != 0);
        }
    }
    found
}

#[test]
fn private_keys_are_for_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let sections = directory.path().join("sections");
    fs::create_dir(&sections).unwrap();
    fs::set_permissions(&sections, fs::Permissions::from_mode(0o755)).unwrap();
    let secret = with_key("hunter2");
    let (name, (digest, _)) = secret.sections().iter().find(|(name, _)| name.is_secret()).unwrap();
    assert!(name.is_secret());
    let left = temporary(&sections.join(digest.to_string()));
    fs::write(&left, "left by a crash").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
    let mut store = Store::open(directory.path(), true).unwrap();
    save(&mut store, 1, &secret, &[]).unwrap();
    assert_eq!(stands_in(directory.path(), "hunter2"), (true, false));
    assert_eq!(loaded(&mut store), Some((1, secret.checksum())));
}

#[test]
fn where_private_keys_are_not_wanted_none_is_written_and_the_rest_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), false).unwrap();
    let (plain, secret) = (snapshot(&["a"]), with_key("hunter2"));
    save(&mut store, 1, &plain, &[]).unwrap();
    assert_eq!(loaded(&mut store), Some((1, plain.checksum())), "without keys nothing is missing");
    save(&mut store, 2, &secret, &[&plain]).unwrap();
    assert_eq!(stands_in(directory.path(), "hunter2"), (false, false));
    assert!(matches!(store.load(), Err(StoreError::WithoutKeys)));
    save(&mut store, 3, &secret, &[&secret]).unwrap();
    assert!(matches!(store.load(), Err(StoreError::WithoutKeys)));
    drop(store);
    // Switched on again: nothing is damaged, the keys are just not there until they come again.
    let mut store = Store::open(directory.path(), true).unwrap();
    assert!(matches!(store.load(), Err(StoreError::WithoutKeys)));
    save(&mut store, 4, &secret, &[]).unwrap();
    assert_eq!(loaded(&mut store), Some((4, secret.checksum())));
    drop(store);
    let mut store = Store::open(directory.path(), false).unwrap();
    assert!(matches!(store.load(), Err(StoreError::WithoutKeys)));
    assert_eq!(stands_in(directory.path(), "hunter2"), (false, false), "switched off, it takes away what was there");
}

#[test]
fn hashes_of_passwords_and_secrets_are_kept_from_the_disk_like_private_keys() {
    let spoilt: [fn(&mut Config); 3] = [
        |config| {
            let user = r#"{"name": "alice", "password": "$argon2id$hunter2"}"#;
            config.users = vec![serde_json::from_str(user).unwrap()];
        },
        |config| {
            let issuer = r#"{"name": "corp", "issuer": "corp",
                "introspection": {"url": "http://a/", "client_secret": "hunter2"}}"#;
            config.issuers = vec![serde_json::from_str(issuer).unwrap()];
        },
        |config| {
            let assertion = r#"{"name": "backend", "issuer": "us", "key": "-----BEGIN PRIVATE KEY-----\nhunter2"}"#;
            config.assertions = vec![serde_json::from_str(assertion).unwrap()];
        },
    ];
    for spoil in spoilt {
        let directory = tempfile::tempdir().unwrap();
        let mut config = snapshot(&["a"]).to_config();
        spoil(&mut config);
        let secret = Snapshot::check(config).unwrap();
        let mut store = Store::open(directory.path(), true).unwrap();
        save(&mut store, 1, &secret, &[]).unwrap();
        assert_eq!(stands_in(directory.path(), "hunter2"), (true, false));
        assert_eq!(loaded(&mut store), Some((1, secret.checksum())));
        drop(store);
        let mut store = Store::open(directory.path(), false).unwrap();
        assert_eq!(stands_in(directory.path(), "hunter2"), (false, false));
        assert!(matches!(store.load(), Err(StoreError::WithoutKeys)));
        save(&mut store, 2, &secret, &[]).unwrap();
        assert_eq!(stands_in(directory.path(), "hunter2"), (false, false));
    }
}

/// The file of the section with the key.
fn key_file(directory: &Path, secret: &Snapshot) -> PathBuf {
    let (_, (digest, _)) = secret.sections().iter().find(|(name, _)| name.is_secret()).unwrap();
    directory.join("sections").join(digest.to_string())
}

#[test]
fn what_a_crash_left_goes_at_the_opening_where_private_keys_are_not_wanted() {
    let (plain, secret) = (snapshot(&["a"]), with_key("hunter2"));
    // With a snapshot, with one that is damaged, and with none.
    for current in [Some(None), Some(Some("half of")), None] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), true).unwrap();
        save(&mut store, 1, &plain, &[]).unwrap();
        drop(store);
        match current {
            Some(None) => {}
            Some(Some(text)) => fs::write(directory.path().join("current"), text).unwrap(),
            None => fs::remove_file(directory.path().join("current")).unwrap(),
        }
        let left = key_file(directory.path(), &secret);
        fs::write(temporary(&left), "hunter2").unwrap();
        fs::write(left, "hunter2").unwrap();
        let mut store = Store::open(directory.path(), false).unwrap();
        assert_eq!(stands_in(directory.path(), "hunter2"), (false, false), "{current:?}");
        match current {
            Some(None) => assert_eq!(loaded(&mut store), Some((1, plain.checksum())), "the rest is whole"),
            Some(Some(_)) => assert!(matches!(store.load(), Err(StoreError::Unusable { .. }))),
            None => assert_eq!(loaded(&mut store), None),
        }
    }
}

#[test]
fn private_keys_are_not_set_aside() {
    let secret = with_key("hunter2");
    for damaged in ["current", "section"] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), true).unwrap();
        save(&mut store, 1, &secret, &[]).unwrap();
        let path = match damaged {
            "current" => directory.path().join("current"),
            _ => {
                let plain = secret.sections().iter().find(|(name, _)| !name.is_secret()).unwrap();
                directory.path().join("sections").join(plain.1.0.to_string())
            }
        };
        fs::write(path, "half of").unwrap();
        assert_eq!(stands_in(directory.path(), "hunter2"), (true, false));
        assert!(matches!(store.load(), Err(StoreError::Unusable { .. })));
        assert!(directory.path().join("unusable/current").exists());
        assert_eq!(stands_in(directory.path(), "hunter2"), (false, false), "{damaged}");
        let kept = fs::read_dir(directory.path().join("unusable/sections")).unwrap().count();
        assert_eq!(kept > 0, damaged == "section", "what is known to hold no key can be looked at");
    }
}

#[test]
fn a_store_that_is_printed_shows_no_private_key() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), true).unwrap();
    let secret = with_key("hunter2");
    fs::create_dir(directory.path().join("current.tmp")).unwrap();
    assert!(save(&mut store, 1, &secret, &[]).is_err());
    let held = store.unsaved.values().any(|bytes| bytes.windows(7).any(|window| window == b"hunter2"));
    assert!(held, "what could not be saved is kept");
    let printed = format!("{store:?}");
    let as_numbers = format!("{:?}", b"hunter2");
    assert!(!printed.contains("hunter2") && !printed.contains(as_numbers.trim_matches(['[', ']'])), "{printed}");
    assert!(printed.contains("unsaved"), "{printed}");
}
