//! On-upgrade policies: who is let in, what the endpoint is told, and where a client is led, step by step.
//!
//! Upstreams say what they were asked; what a step refuses, nobody is asked.

mod people;
mod services;

use std::time::Duration;

use crate::kit::{Gateway, Head, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, on_single_legs};

on_both_drivers!(
    steps_allow_and_deny_by_address_and_header_in_their_order,
    steps_set_remove_and_rename_headers,
    what_a_client_says_does_not_break_a_header,
    a_client_cannot_take_the_policy_s_headers_away,
    a_step_leads_to_another_upstream,
    a_template_leads_where_it_may_and_nowhere_else,
    a_policy_that_is_changed_holds_for_the_next_client,
    the_example_does_what_it_says,
);
on_single_legs!(what_a_template_makes_is_reached_over_tls);

#[track_caller]
fn opened(gateway: &Gateway, upstream: &RawUpstream, request: &Upgrade) -> Head {
    let mut client = gateway.connect();
    client.send(&request.encode());
    let head = upstream.accept().agree();
    client.upgraded();
    head
}

#[track_caller]
fn refused(gateway: &Gateway, request: &Upgrade, status: u16) -> String {
    let mut client = gateway.connect();
    client.send(&request.encode());
    let answer = client.refused();
    assert_eq!(answer.status, status, "{}{}", answer.head, answer.body);
    answer.body
}

/// An API of this name, leading to the upstream, with these steps.
fn with_steps(setup: Setup, name: &str, upstream: &RawUpstream, steps: &str) -> Setup {
    setup.api_to(name, &upstream.url("/own"), &format!("on_upgrade: [{steps}]"))
}

fn steps_allow_and_deny_by_address_and_header_in_their_order(variant: Variant) {
    let upstream = RawUpstream::listen();
    let everybody = "{ deny: {} }";
    let setup = Setup::new(variant);
    let setup = with_steps(setup, "nobody", &upstream, everybody);
    let setup =
        with_steps(setup, "loopback", &upstream, &format!("{{ allow: {{ addresses: [127.0.0.0/8] }} }}, {everybody}"));
    let setup =
        with_steps(setup, "elsewhere", &upstream, &format!("{{ allow: {{ addresses: [10.0.0.0/8] }} }}, {everybody}"));
    let setup = with_steps(
        setup,
        "agents",
        &upstream,
        "{ deny: { headers: [{ name: User-Agent, values: ['curl/*', '*bot*'] }] } }",
    );
    let setup = with_steps(setup, "needed", &upstream, "{ deny: { headers: [{ name: X-Tenant }], not: true } }");
    let setup = with_steps(
        setup,
        "both",
        &upstream,
        "{ allow: { addresses: [127.0.0.1], headers: [{ name: X-A, values: ['1'] }, { name: X-B }] } }, { deny: {} }",
    );
    let setup = with_steps(setup, "late", &upstream, &format!("{everybody}, {{ allow: {{}} }}"));
    let mut gateway = setup.start();

    let sentence = refused(&gateway, &Upgrade::to("/nobody"), 403);
    assert_eq!(sentence, "The API's policy does not allow this.\n");
    opened(&gateway, &upstream, &Upgrade::to("/loopback"));
    refused(&gateway, &Upgrade::to("/elsewhere"), 403);
    opened(&gateway, &upstream, &Upgrade::to("/agents"));
    opened(&gateway, &upstream, &Upgrade::to("/agents").with("User-Agent", "Mozilla/5.0"));
    opened(&gateway, &upstream, &Upgrade::to("/agents").with("User-Agent", "not-curl/8"));
    refused(&gateway, &Upgrade::to("/agents").with("User-Agent", "curl/8.0"), 403);
    refused(&gateway, &Upgrade::to("/agents").with("user-agent", "x").with("User-Agent", "a bot b"), 403);
    refused(&gateway, &Upgrade::to("/agents").with_bytes(&b"User-Agent: a\xffbot"[..]), 403);
    opened(&gateway, &upstream, &Upgrade::to("/needed").with("X-Tenant", ""));
    refused(&gateway, &Upgrade::to("/needed"), 403);
    opened(&gateway, &upstream, &Upgrade::to("/both").with("X-A", "1").with("X-B", "2"));
    refused(&gateway, &Upgrade::to("/both").with("X-A", "1"), 403);
    refused(&gateway, &Upgrade::to("/both").with("X-A", "11").with("X-B", "2"), 403);
    refused(&gateway, &Upgrade::to("/late"), 403);

    let line = gateway.logged("refused", "elsewhere");
    assert_eq!((&line["reason"], &line["detail"]), (&"policy".into(), &"step 2: deny".into()), "{line}");
    assert!(gateway.metric("framegate_refusals_total", &[("reason", "policy"), ("blame", "client")]) >= 9.0);
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn steps_set_remove_and_rename_headers(variant: Variant) {
    let upstream = RawUpstream::listen();
    let steps = "{ set_header: { name: X-Said, value: '{header.X-A}, {client_address}, {host}, {topic.room}, {{}}' } }, \
                 { set_header: { name: X-Nothing, value: '{header.X-Absent}' } }, \
                 { remove_headers: [X-Secret, cookie] }, \
                 { rename_header: { from: X-Old, to: X-New } }, \
                 { rename_header: { from: X-Absent, to: X-Spoofed } }, \
                 { set_header: { name: X-Passing, value: a } }, \
                 { rename_header: { from: X-Passing, to: X-Arrived } }, \
                 { set_header: { name: Origin, value: 'https://gateway.example' } }";
    let topics = "topics: [{ topic: '/rooms/{room}', mapping: '/r/{room}' }]";
    let setup = Setup::new(variant).api_to("a", &upstream.url("/own"), &format!("{topics}, on_upgrade: [{steps}]"));
    let mut gateway = setup.start();
    let request = Upgrade::to("/a/rooms/7?q=1")
        .set("Host", "Chat.Example:81")
        .with("X-A", "hello")
        .with("X-Said", "mine")
        .with("X-Nothing", "spoofed")
        .with("X-Secret", "1")
        .with("x-secret", "2")
        .with("Cookie", "a=b")
        .with("X-Old", "one")
        .with("x-old", "two")
        .with("X-New", "mine")
        .with("X-Spoofed", "mine")
        .with("X-Arrived", "mine")
        .with("Origin", "https://chat.example:81")
        .with("X-Kept", "kept");
    let head = opened(&gateway, &upstream, &request);
    assert_eq!(head.target(), "/own/r/7?q=1");
    for (name, expected) in [
        ("X-Said", &["hello, 127.0.0.1, chat.example, 7, {}"][..]),
        ("X-Nothing", &[]),
        ("X-Secret", &[]),
        ("Cookie", &[]),
        ("X-Old", &[]),
        ("X-New", &["one, two"]),
        ("X-Spoofed", &[]),
        ("X-Passing", &[]),
        ("X-Arrived", &["a"]),
        ("Origin", &["https://gateway.example"]),
        ("X-Kept", &["kept"]),
        ("Sec-WebSocket-Version", &["13"]),
        ("Connection", &["Upgrade"]),
    ] {
        assert_eq!(head.headers(name), expected, "{name}: {head}");
    }
    gateway.probe();
}

fn what_a_client_says_does_not_break_a_header(variant: Variant) {
    let upstream = RawUpstream::listen();
    let steps = "{ set_header: { name: X-Said, value: 'a {header.X-A} {topic.room} b' } }";
    let topics = "topics: [{ topic: '/{room}' }]";
    let setup = Setup::new(variant).api_to("a", &upstream.url("/"), &format!("{topics}, on_upgrade: [{steps}]"));
    let mut gateway = setup.start();
    for (request, said) in [
        // What is a line end elsewhere stays what it is.
        (Upgrade::to("/a/%E2%80%A8x").with("X-A", "%0d%0aX-B: c"), "a %0d%0aX-B: c %E2%80%A8x b"),
        (Upgrade::to("/a/x").with("X-A", "tab\tbed"), "a tab\tbed x b"),
        (Upgrade::to("/a/x").with("X-A", "caf\u{e9}"), "a caf\u{e9} x b"),
        (Upgrade::to("/a/x").with("X-A", "  "), "a  x b"),
        // A value is no template.
        (Upgrade::to("/a/x").with("X-A", "{client_address}"), "a {client_address} x b"),
    ] {
        assert_eq!(opened(&gateway, &upstream, &request).headers("X-Said"), [said]);
    }
    for request in [
        Upgrade::to("/a/x").with_bytes(&b"X-A: caf\xe9"[..]),
        Upgrade::to("/a/x").with("X-A", "one").with("X-A", "two"),
        Upgrade::to("/a/x").with("X-A", &"x".repeat(2100)),
        // A control character of Unicode, which some readers take for a line end.
        Upgrade::to("/a/x").with("X-A", "a\u{85}b"),
    ] {
        refused(&gateway, &request, 403);
    }
    let line = gateway.logged("refused", "a");
    assert_eq!(line["detail"], "step 1: set_header: a value of the client cannot stand there", "{line}");
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn a_client_cannot_take_the_policy_s_headers_away(variant: Variant) {
    let upstream = RawUpstream::listen();
    let steps = "{ set_header: { name: X-Role, value: guest } }, { rename_header: { from: X-Hop, to: X-Renamed } }";
    let mut gateway = with_steps(Setup::new(variant), "a", &upstream, steps).start();
    let request = Upgrade::to("/a")
        .set("Connection", "Upgrade, X-Role, X-Hop, X-Request-Id")
        .with("X-Role", "admin")
        .with("X_Role", "admin")
        .with("X-Hop", "mine");
    let head = opened(&gateway, &upstream, &request);
    assert_eq!(head.headers("X-Role"), ["guest"], "{head}");
    assert_eq!(head.headers("X_Role"), [""; 0], "{head}");
    assert_eq!(head.headers("X-Renamed"), [""; 0], "{head}");
    assert_eq!(head.headers("X-Request-Id").len(), 1, "{head}");
    gateway.probe();
}

fn a_step_leads_to_another_upstream(variant: Variant) {
    let [own, eu, us] = [(); 3].map(|()| RawUpstream::listen());
    let by = |template: &str, otherwise: &str| {
        format!("{{ route: {{ by: {{ value: '{template}', upstreams: {{ eu: eu, 'us': us }}{otherwise} }} }} }}")
    };
    let setup = Setup::new(variant)
        .upstream(&format!("name: eu, endpoints: [{{ url: \"{}\" }}]", eu.url("/of-eu")))
        .upstream(&format!("name: us, endpoints: [{{ url: \"{}\" }}]", us.url("/of-us?k=1")));
    let setup = with_steps(setup, "fixed", &own, "{ route: { upstream: eu } }");
    let setup = with_steps(setup, "last", &own, "{ route: { upstream: eu } }, { route: { upstream: us } }");
    let setup = with_steps(setup, "region", &own, &by("{header.X-Region}", ""));
    let setup = with_steps(setup, "fallback", &own, &by("{header.X-Region}", ", otherwise: us"));
    let setup = with_steps(setup, "host", &own, &by("{host}", ""));
    let mut gateway = setup.start();
    let region = |name: &str, region: &str| Upgrade::to(&format!("/{name}?q")).with("X-Region", region);
    for (request, upstream, target) in [
        (Upgrade::to("/fixed?q"), &eu, "/of-eu?q"),
        (Upgrade::to("/last"), &us, "/of-us?k=1"),
        (region("region", "eu"), &eu, "/of-eu?q"),
        (region("region", "us"), &us, "/of-us?k=1&q"),
        (region("fallback", "eu"), &eu, "/of-eu?q"),
        (region("fallback", "eu "), &eu, "/of-eu?q"),
        (region("fallback", "asia"), &us, "/of-us?k=1&q"),
        (Upgrade::to("/fallback"), &us, "/of-us?k=1"),
        (Upgrade::to("/host").set("Host", "EU:8080"), &eu, "/of-eu"),
    ] {
        assert_eq!(opened(&gateway, upstream, &request).target(), target);
    }
    for request in [
        Upgrade::to("/region"),
        region("region", "EU"),
        region("region", "eu,us"),
        region("region", "eu").with("X-Region", "us"),
        Upgrade::to("/host"),
    ] {
        refused(&gateway, &request, 403);
    }
    let line = gateway.logged("open", "fixed");
    assert_eq!(line["upstream"], "eu", "{line}");
    own.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn a_template_leads_where_it_may_and_nowhere_else(variant: Variant) {
    let [own, tenants, other] = [(); 3].map(|()| RawUpstream::listen());
    let to = |template: &str, allowed: &str| {
        format!("{{ route: {{ target: {{ url: \"{template}\", allowed: [{allowed}] }} }} }}")
    };
    let base = tenants.url("/tenants");
    let setup = Setup::new(variant);
    let path = to(&format!("{base}/{{header.X-Tenant}}"), &format!("\"{base}\""));
    let setup = with_steps(setup, "path", &own, &path);
    let query = to(&format!("{base}?tenant={{header.X-Tenant}}"), &format!("\"{base}\""));
    let setup = with_steps(setup, "query", &own, &query);
    let place = to("ws://{header.X-Host}:{header.X-Port}/tenants/x", &format!("\"{base}\", \"{}\"", other.url("/")));
    let setup = with_steps(setup, "place", &own, &place);
    let topics = "topics: [{ topic: '/{room}', mapping: '/r/{room}' }]";
    let room = to(&format!("{base}/{{topic.room}}"), &format!("\"{base}\""));
    let setup = setup.api_to("room", &own.url("/"), &format!("{topics}, on_upgrade: [{room}]"));
    let mut gateway = setup.start();

    let tenant = |name: &str, tenant: &str| Upgrade::to(&format!("/{name}?q=1")).with("X-Tenant", tenant);
    for (request, target) in [
        (tenant("path", "acme"), "/tenants/acme?q=1"),
        (tenant("path", "a b&c=d"), "/tenants/a%20b%26c%3Dd?q=1"),
        (tenant("path", "caf\u{e9}%2f"), "/tenants/caf%C3%A9%252f?q=1"),
        (tenant("path", "..."), "/tenants/...?q=1"),
        (tenant("path", "http://evil"), "403"),
        (tenant("path", "."), "403"),
        (tenant("path", ".."), "403"),
        (tenant("path", "../admin"), "403"),
        (tenant("path", "a/../../admin"), "403"),
        (tenant("path", "a/b"), "403"),
        (tenant("path", "a\\b"), "403"),
        (tenant("path", "@evil.test"), "/tenants/%40evil.test?q=1"),
        (tenant("path", "x?y#z"), "/tenants/x%3Fy%23z?q=1"),
        (tenant("path", "a\u{85}b"), "/tenants/a%C2%85b?q=1"),
        (tenant("query", "a&admin=1"), "/tenants?tenant=a%26admin%3D1&q=1"),
        (tenant("query", ""), "/tenants?tenant=&q=1"),
        (Upgrade::to("/path"), "/tenants/"),
        (Upgrade::to("/room/a%20b"), "/tenants/a%20b/r/a%20b"),
        (Upgrade::to("/room/%C3%A9;x"), "/tenants/%C3%A9%3Bx/r/%C3%A9;x"),
    ] {
        match target {
            "403" => _ = refused(&gateway, &request, 403),
            target => assert_eq!(opened(&gateway, &tenants, &request).target(), target),
        }
    }
    let port = |upstream: &RawUpstream| upstream.address().port().to_string();
    let placed = |host: &str, port: &str| Upgrade::to("/place").with("X-Host", host).with("X-Port", port);
    assert_eq!(opened(&gateway, &tenants, &placed("127.0.0.1", &port(&tenants))).target(), "/tenants/x");
    assert_eq!(opened(&gateway, &other, &placed("127.0.0.1", &port(&other))).target(), "/tenants/x");
    for (host, port) in [
        ("127.0.0.1", port(&own)),
        ("127.0.0.1", String::new()),
        ("127.0.0.2", port(&tenants)),
        ("localhost", port(&tenants)),
        ("evil.test/", port(&tenants)),
        ("evil.test#", port(&tenants)),
        ("evil@127.0.0.1", port(&tenants)),
        ("127.0.0.1:80@evil", port(&tenants)),
        ("127.0.0.1", format!("{}/../x", port(&tenants))),
        ("", port(&tenants)),
    ] {
        refused(&gateway, &placed(host, &port), 403);
    }
    let line = gateway.logged("refused", "place");
    assert_eq!(line["detail"], "step 1: route: what the template made is not allowed", "{line}");
    // What a client says is not in the names by which logs and metrics know endpoints.
    let line = gateway.logged("open", "path");
    assert_eq!((&line["upstream"], &line["endpoint"]), (&base.as_str().into(), &base.as_str().into()), "{line}");
    for upstream in [&own, &tenants, &other] {
        upstream.expect_no_connection(Duration::ZERO);
    }
    gateway.probe();
}

fn what_a_template_makes_is_reached_over_tls(variant: Variant) {
    let upstream = RawUpstream::listen();
    let base = upstream.url("/tenants");
    let target = format!("url: \"{base}/{{header.X-Tenant}}\", allowed: [\"{base}\"]");
    let setup = Setup::new(variant).upstream("name: other, endpoints: [{ url: \"ws://127.0.0.1:1/\" }]");
    let steps = format!("on_upgrade: [{{ route: {{ target: {{ {target} }} }} }}]");
    let endpoints = "endpoints: { production: { upstream: other } }";
    let mut gateway = setup.api(&format!("name: a, context: /a, {endpoints}, {steps}")).start();
    let head = opened(&gateway, &upstream, &Upgrade::to("/a").with("X-Tenant", "acme"));
    assert_eq!(head.target(), "/tenants/acme");
    refused(&gateway, &Upgrade::to("/a").with("X-Tenant", ".."), 403);
    gateway.probe();
}

fn a_policy_that_is_changed_holds_for_the_next_client(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).start();
    let api = |steps: &str| {
        let url = upstream.url("/");
        format!("name: a, context: /a, endpoints: {{ production: {{ url: \"{url}\" }} }}, on_upgrade: [{steps}]")
    };
    let apply = |gateway: &Gateway, steps: &str| {
        let outcome = gateway.apply(&gateway.setup().yaml_with(&[], &[], &[api(steps)]));
        assert_eq!(outcome.code, 0, "{outcome:?}");
    };
    apply(&gateway, "");
    opened(&gateway, &upstream, &Upgrade::to("/a"));
    apply(&gateway, "{ deny: {} }");
    refused(&gateway, &Upgrade::to("/a"), 403);
    apply(&gateway, "{ set_header: { name: X-A, value: b } }");
    assert_eq!(opened(&gateway, &upstream, &Upgrade::to("/a")).headers("X-A"), ["b"]);
    let outcome = gateway.apply(&gateway.setup().yaml_with(&[], &[], &[api("{ route: { upstream: nowhere } }")]));
    assert!(outcome.code != 0 && format!("{outcome:?}").contains("there is no upstream"), "{outcome:?}");
    opened(&gateway, &upstream, &Upgrade::to("/a"));
    gateway.probe();
}

const EXAMPLE: &str = include_str!("../../examples/policy.yaml");

fn the_example_does_what_it_says(variant: Variant) {
    let [europe, america, service] = [(); 3].map(|()| RawUpstream::listen());
    let mut gateway = Setup::new(variant).start();
    let yaml = EXAMPLE
        .replace("0.0.0.0:8080", &gateway.address().to_string())
        .replace("10.0.0.0/8", "127.0.0.0/8")
        .replace("ws://10.1.0.5:9001/", &europe.url("/"))
        .replace("ws://10.2.0.5:9001/", &america.url("/"))
        .replace("127.0.0.1:9100", &service.address().to_string());
    let outcome = gateway.apply(&yaml);
    assert_eq!(outcome.code, 0, "{outcome:?}");

    let good = Upgrade::to("/chat")
        .with("X-Client", "web/1")
        .with("X-Region", "us")
        .with("X-Debug", "1")
        .with("X-User-Tier", "mine");
    let mut client = gateway.connect();
    client.send(&good.clone().with("Cookie", "a=b").encode());
    let mut asked = service.accept();
    assert_eq!(asked.head().headers("Cookie"), ["a=b"]);
    asked.send(b"HTTP/1.1 200 OK\r\nX-User-Tier: gold\r\nContent-Length: 0\r\n\r\n");
    let head = america.accept().agree();
    client.upgraded();
    for (name, expected) in [
        ("X-Client-Version", &["web/1"][..]),
        ("X-Client", &[]),
        ("X-Debug", &[]),
        ("X-Client-Address", &["127.0.0.1"]),
        ("X-User-Tier", &["gold"]),
    ] {
        assert_eq!(head.headers(name), expected, "{name}: {head}");
    }

    refused(&gateway, &Upgrade::to("/chat"), 403);
    let robot = good.with("User-Agent", "a bot");
    refused(&gateway, &robot, 403);
    // From the office, as the trusted proxy says, robots are welcome.
    let mut client = gateway.connect();
    client.send(&robot.with("X-Forwarded-For", "192.0.2.7").encode());
    asked.head();
    asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(america.accept().agree().headers("X-Client-Address"), ["192.0.2.7"]);
    client.upgraded();
    refused(&gateway, &Upgrade::to("/tenants"), 403);
    refused(&gateway, &Upgrade::to("/tenants").with("X-Tenant", "red"), 403);
    gateway.apply(&gateway.setup().yaml());
    gateway.probe();
}
