//! Many objects, and many writers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kit::Admin;

use super::gateway;

#[test]
fn pages_of_2500_keys_miss_none_and_tell_none_twice() {
    let gateway = gateway();
    let admin = Admin::of(&gateway);
    for name in ["even", "odd"] {
        assert_eq!(admin.post("/applications", &json!({ "name": name })).status, 201);
    }
    let key = |number: usize| {
        let application = if number.is_multiple_of(2) { "even" } else { "odd" };
        json!({ "kind": "key", "put": { "name": format!("k{number:04}"), "application": application } })
    };
    for from in [0, 1250] {
        let changes: Vec<Value> = (from..from + 1250).map(key).collect();
        let done = admin.post("/batch", &json!({ "changes": changes }));
        assert_eq!(done.status, 200, "{}", &done.body[..done.body.len().min(500)]);
    }
    let walk = |filter: &str, limit: usize, mut between: Box<dyn FnMut(usize)>| {
        let (mut names, mut pages) = (Vec::new(), 0);
        let mut target = format!("/keys?limit={limit}{filter}");
        loop {
            let page = admin.get(&target);
            assert_eq!(page.status, 200, "{page:?}");
            let items = page.json()["items"].as_array().expect("a list").clone();
            assert!(items.len() <= limit);
            names.extend(items.iter().map(|one| one["name"].as_str().expect("a name").to_owned()));
            pages += 1;
            match (page.json()["next"].as_str(), page.header("link")) {
                (None, None) => return (names, pages),
                (Some(_), Some(link)) => {
                    let url = link.strip_prefix("</api/v1").and_then(|link| link.strip_suffix(">; rel=\"next\""));
                    target = url.expect("a link to the next page").to_owned();
                }
                other => panic!("the body and the link do not agree: {other:?}"),
            }
            between(pages);
        }
    };
    let (names, pages) = walk("", 400, Box::new(|_| {}));
    assert_eq!((names.len(), pages), (2501, 7), "the declared one among them");
    assert!(names.is_sorted() && names.iter().collect::<BTreeSet<_>>().len() == names.len());
    let (even, _) = walk("&application=even", 1000, Box::new(|_| {}));
    assert_eq!(even.len(), 1250);
    let (some, _) = walk("&contains=k00", 7, Box::new(|_| {}));
    assert_eq!(some.len(), 100);
    assert_eq!(walk("&enabled=false", 10, Box::new(|_| {})).0.len(), 0);

    // Others create and delete meanwhile: what was there all the time is told once.
    let other = Admin::of(&gateway);
    let (names, _) = walk(
        "&contains=k1",
        100,
        Box::new(move |page| {
            let name = format!("k{:04}", 1000 + page * 50);
            assert_eq!(other.delete(&format!("/keys/{name}")).status, 204);
            let new = json!({ "name": format!("k1a{page}"), "application": "odd" });
            assert_eq!(other.post("/keys", &new).status, 201);
        }),
    );
    let stayed = (1000..2000).filter(|number| number % 50 != 0).map(|number| format!("k{number:04}"));
    let told: BTreeSet<_> = names.iter().cloned().collect();
    assert!(stayed.into_iter().all(|name| told.contains(&name)) && told.len() == names.len());
}

#[test]
fn writers_who_say_what_they_have_read_lose_nothing() {
    const WRITERS: usize = 6;
    const TURNS: usize = 8;
    let gateway = gateway();
    let admin = Admin::of(&gateway);
    assert_eq!(admin.post("/applications", &json!({ "name": "shared", "owner": "0" })).status, 201);
    let conflicts: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                scope.spawn(|| {
                    let (mut done, mut conflicts) = (0, 0);
                    while done < TURNS {
                        let read = admin.get("/applications/shared");
                        let etag = read.header("etag").expect("an entity tag").to_owned();
                        let count: usize = read.json()["owner"].as_str().expect("a text").parse().expect("a number");
                        let body = json!({ "owner": (count + 1).to_string() });
                        match admin.send("PATCH", "/applications/shared", &[("If-Match", &etag)], &body).status {
                            200 => done += 1,
                            412 => conflicts += 1,
                            other => panic!("{other}"),
                        }
                    }
                    conflicts
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).sum()
    });
    assert_eq!(admin.get("/applications/shared").json()["owner"], (WRITERS * TURNS).to_string());
    assert!(conflicts > 0, "nobody met anybody: the test shows nothing");

    // Without a condition changes of different fields do not undo each other: clients come one by one.
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let admin = &admin;
            scope.spawn(move || {
                for turn in 0..3 {
                    let body = json!({ "id": format!("c{writer}-{turn}") });
                    let made = loop {
                        let made = admin.post("/applications/shared/clients", &body);
                        // So many overtook it that it gave up.
                        if made.status != 409 || made.problem().1 != "conflict" {
                            break made;
                        }
                    };
                    assert_eq!(made.status, 201, "{made:?}");
                }
            });
        }
    });
    let clients = admin.get("/applications/shared").json()["clients"].as_array().map(Vec::len);
    assert_eq!(clients, Some(WRITERS * 3));
}
