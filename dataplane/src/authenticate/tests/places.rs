//! Where credentials stand: the order in which they are looked for, what is malformed, and what travels onwards.

use CredentialForm::{
    ApiKey as Key, Basic, Bearer, ClientCertificate as Certificate, Cookie, PersonalAccessToken as Personal,
    QueryToken, Subprotocol,
};

use super::*;
use crate::authenticate::forms::Malformed;

const TARGET: &str = "/chat/v1/x";

/// The credential that decides, as a text, and what becomes of the request.
fn look(asked: &Authentication, target: &str, lines: &[&str], offer: &[&str]) -> (String, Onward) {
    let offer: Vec<String> = offer.iter().map(|name| (*name).to_owned()).collect();
    with_head(target, lines, |view| {
        let places = Places { view, subprotocols: &offer, has_certificate: true, asked };
        let found = places.find();
        let mut onward = Onward::default();
        places.strip(found.as_ref(), &mut onward);
        let text = match found {
            None => "nothing".to_owned(),
            Some((form, Err(Malformed))) => format!("{} malformed", form.word()),
            Some((form, Ok(presented))) => {
                let text = match &presented {
                    Presented::Token(token) => format!("token {token}"),
                    Presented::Key(key) => format!("key {key}"),
                    Presented::Password(login) => format!("{} with {}", login.user, login.password),
                    Presented::Certificate => "certificate".into(),
                };
                format!("{} {text}", form.word())
            }
        };
        (text, onward)
    })
}

fn accepting(accept: &[CredentialForm]) -> Authentication {
    Authentication { accept: accept.to_vec(), ..Authentication::default() }
}

fn found(accept: &[CredentialForm], target: &str, lines: &[&str], offer: &[&str]) -> String {
    look(&accepting(accept), target, lines, offer).0
}

/// What a credential of each form looks like.
const EVERYTHING: [&str; 4] = [
    "Authorization: Bearer b.b.b",
    "apikey: k",
    "Cookie: a=1; apimlAuthenticationToken=c.c.c; personalAccessToken=p",
    "PRIVATE-TOKEN: p.p.p",
];

#[test]
fn the_first_form_that_is_accepted_and_there_decides() {
    let target = "/chat/v1/x?access_token=q.q.q&apikey=kq";
    let offer = ["chat", "bearer.s.s.s"];
    // Configured in any order, looked for in one.
    let mut accept = CredentialForm::ALL.to_vec();
    accept.reverse();
    for expected in [
        "bearer token b.b.b",
        "query_token token q.q.q",
        "api_key key k",
        "subprotocol token s.s.s",
        "basic malformed",
        "cookie token c.c.c",
        "personal_access_token token p.p.p",
        "client_certificate certificate",
    ] {
        assert_eq!(found(&accept, target, &EVERYTHING, &offer), expected);
        accept.pop();
    }
    assert_eq!(found(&[Bearer], TARGET, &[], &[]), "nothing");
    assert_eq!(found(&[Bearer], target, &EVERYTHING[1..], &offer), "nothing", "others are not looked at");
}

#[test]
fn the_authorization_header_is_of_its_scheme_or_malformed() {
    let both = [Bearer, Key, Basic];
    let alice = "Authorization: Basic YWxpY2U6cGE6c3M=";
    for (accept, lines, expected) in [
        (&[Bearer][..], &["Authorization: Bearer x"][..], "bearer token x"),
        (&[Bearer], &["authorization: bEaReR   x"], "bearer token x"),
        (&[Bearer], &["Authorization: Bearer"], "bearer malformed"),
        (&[Bearer], &["Authorization:"], "bearer malformed"),
        (&[Bearer], &["Authorization: x"], "bearer malformed"),
        (&[Bearer], &["Authorization: Bearer x y"], "bearer malformed"),
        (&[Bearer], &["Authorization: Bearer x", "Authorization: Bearer x"], "bearer malformed"),
        (&[Bearer], &["Authorization: Digest x"], "bearer malformed"),
        (&[Bearer], &[alice], "bearer malformed"),
        (&[Bearer, Key], &[alice, "apikey: k"], "bearer malformed"),
        (&[Key], &[alice, "apikey: k"], "api_key key k"),
        (&both, &[alice], "basic alice with pa:ss"),
        (&both, &[alice, "apikey: k"], "api_key key k"),
        (&both, &["Authorization: Bearer x", "apikey: k"], "bearer token x"),
        (&both, &["Authorization: Other x", "apikey: k"], "bearer malformed"),
        (&[Basic], &["Authorization: Bearer x"], "basic malformed"),
        (&[Basic], &["Authorization: basic YWxpY2U6"], "basic alice with "),
        (&[Basic], &["Authorization: Basic bMO8OsO8"], "basic lü with ü"),
        (&[Basic], &["Authorization: Basic YWxpY2U="], "basic malformed"),
        (&[Basic], &["Authorization: Basic OnBhc3M="], "basic malformed"),
        (&[Basic], &["Authorization: Basic /zr/"], "basic malformed"),
        (&[Basic], &["Authorization: Basic YTpiCg=="], "basic malformed"),
        (&[Basic], &["Authorization: Basic ***"], "basic malformed"),
        (&[Basic], &["Authorization: Basic"], "basic malformed"),
    ] {
        assert_eq!(found(accept, TARGET, lines, &[]), expected, "{accept:?} {lines:?}");
    }
    let long = format!("Authorization: Bearer {}", "x".repeat(8193));
    assert_eq!(found(&[Bearer], TARGET, &[&long], &[]), "bearer malformed");
    let mut renamed = accepting(&[Bearer, Key]);
    renamed.authorization_header = "X-Auth".into();
    renamed.api_key_name = "X-Key".into();
    assert_eq!(look(&renamed, TARGET, &["Authorization: no", "x-auth: Bearer y"], &[]).0, "bearer token y");
    assert_eq!(look(&renamed, TARGET, &["apikey: no", "x-key: z"], &[]).0, "api_key key z");
    assert_eq!(look(&renamed, "/chat/v1/x?X-Key=z", &["apikey: no"], &[]).0, "api_key key z");
}

#[test]
fn queries_cookies_and_subprotocols_carry_one_credential_each() {
    for (form, query, expected) in [
        (QueryToken, "access_token=x", "query_token token x"),
        (QueryToken, "a=1&access%5ftoken=%78%2Ey%2b+&b", "query_token token x.y++"),
        (QueryToken, "access_token=x&access_token=x", "query_token malformed"),
        (QueryToken, "access_token=x&%61ccess_token=y", "query_token malformed"),
        (QueryToken, "access_token=", "query_token malformed"),
        (QueryToken, "access_token", "query_token malformed"),
        (QueryToken, "access_token=%zz", "query_token malformed"),
        (QueryToken, "access_token=%7", "query_token malformed"),
        (QueryToken, "access_token=%ff", "query_token malformed"),
        (QueryToken, "access_token=a%0d%0ab", "query_token malformed"),
        (QueryToken, "access_token=a%20b", "query_token malformed"),
        (QueryToken, "Access_Token=x&xaccess_token=y", "nothing"),
        (Key, "apikey=x&access_token=y", "api_key key x"),
        (Key, "apikey=x&apikey=y", "api_key malformed"),
        (Key, "apikey=", "api_key malformed"),
    ] {
        assert_eq!(found(&[form], &format!("/chat/v1/x?{query}"), &[], &[]), expected, "{query}");
    }
    assert_eq!(found(&[Key], "/chat/v1/x?apikey=q", &["apikey: h"], &[]), "api_key key h");
    assert_eq!(found(&[Key], "/chat/v1/x?apikey=q", &["apikey: h", "APIKEY: h"], &[]), "api_key malformed");
    for (form, lines, expected) in [
        (Cookie, &["Cookie: a=b; apimlAuthenticationToken=x; c"][..], "cookie token x"),
        (Cookie, &["Cookie: a=b", "Cookie: apimlAuthenticationToken=\"x\""], "cookie token x"),
        (Cookie, &["Cookie: apimlAuthenticationToken=x=y=="], "cookie token x=y=="),
        (Cookie, &["Cookie: apimlAuthenticationToken=x;apimlAuthenticationToken=y"], "cookie malformed"),
        (Cookie, &["Cookie: apimlAuthenticationToken="], "cookie malformed"),
        (Cookie, &["Cookie: apimlauthenticationtoken=x; xapimlAuthenticationToken=y"], "nothing"),
        (Personal, &["PRIVATE-TOKEN: x"], "personal_access_token key x"),
        (Personal, &["private-token: x.y.z"], "personal_access_token token x.y.z"),
        (Personal, &["Cookie: personalAccessToken=x.y"], "personal_access_token key x.y"),
        (Personal, &["PRIVATE-TOKEN: x", "Cookie: personalAccessToken=y"], "personal_access_token key x"),
        (Personal, &["PRIVATE-TOKEN:"], "personal_access_token malformed"),
    ] {
        assert_eq!(found(&[form], TARGET, lines, &[]), expected, "{lines:?}");
    }
    for (offer, expected) in [
        (&["chat", "bearer.x.y.z"][..], "subprotocol token x.y.z"),
        (&["base64url.bearer.authorization.k8s.io.eC55Lno", "chat"], "subprotocol token x.y.z"),
        (&["base64url.bearer.authorization.k8s.io.eC55Lno="], "subprotocol malformed"),
        (&["base64url.bearer.authorization.k8s.io."], "subprotocol malformed"),
        (&["base64url.bearer.authorization.k8s.io.____"], "subprotocol malformed"),
        (&["bearer."], "subprotocol malformed"),
        (&["bearer.x", "bearer.y"], "subprotocol malformed"),
        (&["bearer", "Bearer.x", "chat"], "nothing"),
    ] {
        assert_eq!(found(&[Subprotocol], TARGET, &[], offer), expected, "{offer:?}");
    }
}

/// What is withheld, what is set, and the query that travels.
fn travels(onward: &Onward, query: &str) -> (Vec<String>, Vec<(String, String)>, String) {
    let mut withheld: Vec<String> = onward.withheld().map(Into::into).collect();
    withheld.sort();
    let set = onward.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (withheld, set, onward.query(Some(query)).unwrap_or_default().to_owned())
}

#[test]
fn credentials_of_accepted_forms_do_not_travel_and_others_do() {
    let query = "a=1&access_token=q&apikey=k&b=2&%61pikey=k2";
    let target = format!("/chat/v1/x?{query}");
    let offer = ["chat", "bearer.s", "bearer.t"];
    let strip = |accept: &[CredentialForm]| {
        let (_, onward) = look(&accepting(accept), &target, &EVERYTHING, &offer);
        let carriers: Vec<&str> = offer.into_iter().filter(|name| onward.is_carrier(name)).collect();
        let (withheld, set, query) = travels(&onward, query);
        (withheld.join(" "), set, query, carriers)
    };
    let none: Vec<(String, String)> = Vec::new();
    let untouched = "a=1&apikey=k&b=2&%61pikey=k2";
    assert_eq!(strip(&[Bearer]), ("authorization".into(), none.clone(), untouched.into(), vec![]));
    assert_eq!(strip(&[Basic]), ("authorization".into(), none.clone(), untouched.into(), vec![]));
    assert_eq!(strip(&[Certificate]), (String::new(), none.clone(), untouched.into(), vec![]));
    assert_eq!(strip(&[Key]), ("apikey".into(), none.clone(), "a=1&b=2".into(), vec![]));
    assert_eq!(strip(&[Subprotocol]), (String::new(), none, untouched.into(), vec!["bearer.s", "bearer.t"]));
    let rest = vec![("Cookie".to_owned(), "a=1; personalAccessToken=p".to_owned())];
    assert_eq!(strip(&[Cookie]), ("cookie".into(), rest, untouched.into(), vec![]));
    let rest = vec![("Cookie".to_owned(), "a=1".to_owned())];
    let (withheld, set, ..) = strip(&[Cookie, Personal]);
    assert_eq!((withheld, set), ("cookie private-token".into(), rest));
    let (_, onward) = look(&accepting(&[Cookie]), TARGET, &["Cookie: apimlAuthenticationToken=x"], &[]);
    assert_eq!(travels(&onward, ""), (vec!["cookie".into()], vec![], String::new()), "none is left");
    let (_, onward) = look(&accepting(&[Bearer]), "/chat/v1/x?access_token=x", &[], &[]);
    assert_eq!(onward.query(Some("access_token=x")), None);
    let (_, onward) = look(&accepting(&[Bearer, Cookie]), TARGET, &["Cookie: a=1"], &[]);
    assert_eq!(travels(&onward, "b"), (vec![], vec![], "b".into()), "nothing to strip");
}

#[test]
fn credentials_that_are_passed_on_travel_where_they_may_stand() {
    let mut asked = accepting(&[QueryToken, Key, Subprotocol, Cookie]);
    asked.forward_credentials = true;
    let (_, onward) = look(&asked, "/chat/v1/x?access_token=q&c=1", &EVERYTHING[1..], &[]);
    let set = vec![("Authorization".to_owned(), "Bearer q".to_owned())];
    assert_eq!(travels(&onward, "access_token=q&c=1"), (vec!["authorization".into()], set, "c=1".into()));
    let (_, onward) = look(&asked, "/chat/v1/x?apikey=k&c=1", &[], &[]);
    let set = vec![("apikey".to_owned(), "k".to_owned())];
    assert_eq!(travels(&onward, ""), (vec!["apikey".into()], set, "c=1".into()));
    let (_, onward) = look(&asked, TARGET, &["apikey: k"], &[]);
    assert_eq!(travels(&onward, "c"), (vec![], vec![], "c".into()));
    let (_, onward) = look(&asked, TARGET, &[], &["bearer.s", "chat"]);
    assert_eq!(onward.headers().collect::<Vec<_>>(), [("Authorization", "Bearer s")]);
    assert!(onward.is_carrier("bearer.s") && !onward.is_carrier("chat"));
    let (_, onward) = look(&asked, TARGET, &["Cookie: apimlAuthenticationToken=x; a=1"], &[]);
    assert_eq!(travels(&onward, "c"), (vec![], vec![], "c".into()));
}
