//! Who may use the published APIs: applications, their subscriptions and keys, users, and what has been revoked.
//!
//! These families may have a million entries. Each entry stands in the bucket of its name or hash, in order, so that the
//! decoded section is its own index. What an entry refers to is looked up when it is used: what is not there is refused.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Cidr, Environment, OWN_ISSUER, is_default, is_true, yes};

/// A point in time in whole seconds, after 1970. Written as RFC 3339: `2027-01-31T12:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

/// 9999-12-31T23:59:59Z: the last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

impl Timestamp {
    /// From seconds since 1970, held within what can be written.
    pub fn from_secs(secs: u64) -> Self {
        Self(NonZeroU64::new(secs.min(LAST_SECOND)).unwrap_or(NonZeroU64::MIN))
    }

    /// Seconds since 1970.
    pub const fn as_secs(self) -> u64 {
        self.0.get()
    }

    /// Milliseconds since 1970.
    pub const fn as_ms(self) -> u64 {
        self.as_secs() * 1000
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp(self.as_secs() as i64).map_err(|_| fmt::Error)?;
        f.write_str(&at.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a time is written as in RFC 3339, such as 2027-01-31T12:00:00Z, and is after 1970";
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| FORM)?;
        let secs = u64::try_from(at.unix_timestamp()).ok().filter(|secs| *secs <= LAST_SECOND);
        secs.and_then(NonZeroU64::new).map(Self).ok_or(FORM)
    }
}

super::text_form!(Timestamp, "framegate-time", "A time as in RFC 3339, such as 2027-01-31T12:00:00Z.");

/// SHA-256 of a random secret (an API key, a client's secret): what is kept of it. Written as 64 hexadecimal digits.
///
/// A plain hash is enough for what nobody can guess; passwords are another matter, see [`PasswordHash`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Of a secret.
    pub fn of(secret: &str) -> Self {
        Self(super::Digest::of(secret.as_bytes()).0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::Digest(self.0).fmt(f)
    }
}

impl FromStr for SecretHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digest: super::Digest =
            text.parse().map_err(|_| "a secret is kept as its SHA-256: 64 lower-case hexadecimal digits")?;
        Ok(Self(digest.0))
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl de::Visitor<'_> for Either {
            type Value = SecretHash;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a SHA-256")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretHash, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<SecretHash, E> {
                bytes.try_into().map(SecretHash).map_err(|_| E::custom("a SHA-256 has 32 bytes"))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Either)
        } else {
            deserializer.deserialize_bytes(Either)
        }
    }
}

impl JsonSchema for SecretHash {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretHash".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "framegate-sha256", "description": "The SHA-256 of a secret, in hexadecimal." })
    }
}

/// A password as it is kept: an Argon2 hash in PHC form, `$argon2id$v=19$m=19456,t=2,p=1$...`. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// An application: what subscribes to APIs, and whose clients, keys and users connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// The application's name, unique.
    pub name: String,
    /// Who answers for it; free text.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: String,
    /// Off: nothing of it is let in, and its live sessions are closed.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// The plan that each of its users has, over all APIs together; who has no user counts as one.
    #[serde(default = "unlimited", skip_serializing_if = "is_unlimited")]
    pub plan: String,
    /// Its OAuth2 clients. A token that names one of them is this application's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clients: Vec<OAuthClient>,
}

impl Application {
    /// An application without clients, everything else at its default.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), owner: String::new(), enabled: true, plan: unlimited(), clients: Vec::new() }
    }
}

/// An OAuth2 client (RFC 6749 §2) of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuthClient {
    /// The `client_id`, unique in the gateway.
    pub id: String,
    /// SHA-256 of its secret; none: the gateway issues it no tokens, somebody else does. Never pushed to data planes.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "SecretHash")]
    pub secret: Option<SecretHash>,
    /// The name of the issuer whose tokens may say that they are this client's. Empty: the gateway's own for a client
    /// with a secret, else any that the API accepts but the gateway's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub issuer: String,
    /// The key type of its tokens: which endpoint they lead to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub environment: Environment,
    /// What it may ask the token endpoint for. None: client_credentials and refresh_token. With client_credentials a
    /// refresh token is given only where both are written, for the client can ask again (RFC 6749 §4.4.3).
    #[serde(default, skip_serializing_if = "is_default")]
    pub grants: Vec<GrantType>,
    /// The scopes that it may be given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scopes: Vec<String>,
}

impl OAuthClient {
    /// Whether its tokens are those of an issuer that must be there, as the gateway itself need not.
    pub fn is_bound(&self) -> bool {
        !self.issuer.is_empty() && self.issuer != OWN_ISSUER
    }
}

/// A grant of RFC 6749.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// §4.4: a token for the client itself.
    ClientCredentials,
    /// §6: a new token for an old one.
    RefreshToken,
    /// §4.3: a token for a user, whose password the client knows.
    Password,
}

/// The plan of an application or a subscription that names none: nothing is limited.
pub const UNLIMITED_PLAN: &str = "AsyncUnlimited";

/// An application's subscription to an API version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// The application's name.
    pub application: String,
    /// The API version: `name:version`, or `name` for an API without versions.
    pub api: String,
    /// Its plan: what everybody of the application may send and receive at the API, together.
    #[serde(default = "unlimited", skip_serializing_if = "is_unlimited")]
    pub plan: String,
    /// Off: as if it were not there, and its live sessions are closed.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

fn unlimited() -> String {
    UNLIMITED_PLAN.into()
}

fn is_unlimited(plan: &str) -> bool {
    plan == UNLIMITED_PLAN
}

/// An API key of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// The key's name, unique: what it is called in logs and by operators.
    pub name: Box<str>,
    /// The application whose key it is.
    pub application: Box<str>,
    /// SHA-256 of the key. `framegate key create` makes both.
    pub sha256: SecretHash,
    /// The user on whose behalf it is used.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub user: Option<Box<str>>,
    /// Its key type: which endpoint it leads to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub environment: Environment,
    /// Off: it is not accepted, and its live sessions are closed.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// When it was made.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Timestamp")]
    pub created: Option<Timestamp>,
    /// When it ends, and its sessions with it; none: never.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Timestamp")]
    pub expires: Option<Timestamp>,
    /// What it allows.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "KeyRestrictions")]
    pub restrictions: Option<Box<KeyRestrictions>>,
}

/// From where, and for what, a key may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyRestrictions {
    /// Addresses of clients. None: every address.
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<Cidr>,
    /// What the `Referer` header, or else `Origin`, must be; `*` stands for any characters. None: anything.
    #[serde(skip_serializing_if = "is_default")]
    pub referrers: Vec<String>,
    /// The scopes that it has.
    #[serde(skip_serializing_if = "is_default")]
    pub scopes: Vec<String>,
}

/// Somebody who proves who they are by a password or a client certificate, or for whom tokens are issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The user's name, unique.
    pub name: String,
    /// The password's hash; none: no password is good. `framegate user hash` makes one.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub password: Option<PasswordHash>,
    /// Subjects of client certificates that are this user's, as RFC 4514 writes them: `CN=alice,O=Example`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub certificates: Vec<String>,
    /// The application that the user's own credentials (password, certificate) count for.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub application: Option<String>,
    /// The key type of the user's own credentials.
    #[serde(default, skip_serializing_if = "is_default")]
    pub environment: Environment,
    /// The user's scopes; also the most that a token for the user may have.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scopes: Vec<String>,
    /// Off: nothing of the user's is accepted, and live sessions are closed.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// Something that was good and is so no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// What: `token:ISSUER/ID`, `opaque:SHA256`, `key:NAME`, `client:ID`, `user:NAME`, `application:NAME` or
    /// `subscription:APPLICATION/API`.
    pub revoked: Revoked,
    /// Only what was issued before this second; sessions that are admitted by a password or a certificate count from
    /// their handshake. None: whenever it was issued.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Timestamp")]
    pub issued_before: Option<Timestamp>,
    /// When this may be forgotten, because what it names has run out. None: never.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Timestamp")]
    pub expires: Option<Timestamp>,
    /// Why; for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: String,
}

impl Revocation {
    /// Whether it reaches what it names, issued then, now; both in seconds since 1970. Of one second nobody can say what was
    /// first, as seconds are all that a token says: what was issued within it is reached.
    pub fn reaches(&self, issued_s: u64, now_s: u64) -> bool {
        self.issued_before.is_none_or(|before| issued_s <= before.as_secs())
            && self.expires.is_none_or(|expires| now_s < expires.as_secs())
    }
}

/// What a revocation names. Written `KIND:SUBJECT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revoked {
    /// The kind of thing.
    pub kind: RevokedKind,
    /// Which one.
    pub subject: Box<str>,
}

/// What can be revoked. In the order of their words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevokedKind {
    /// Everything of an application, by its name.
    Application,
    /// Every token of an OAuth2 client, by its id.
    Client,
    /// An API key, by its name.
    Key,
    /// An opaque token, by its SHA-256 in hexadecimal.
    Opaque,
    /// The use of an API by an application: `APPLICATION/API`.
    Subscription,
    /// A token: the configured name of its issuer, a slash, and its `jti`.
    Token,
    /// Everything of a user, by its name (a token's subject).
    User,
}

impl RevokedKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Application, Self::Client, Self::Key, Self::Opaque, Self::Subscription, Self::Token, Self::User];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Client => "client",
            Self::Key => "key",
            Self::Opaque => "opaque",
            Self::Subscription => "subscription",
            Self::Token => "token",
            Self::User => "user",
        }
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.word(), self.subject)
    }
}

impl FromStr for Revoked {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a revocation names token:ISSUER/ID, opaque:SHA256, key:NAME, client:ID, user:NAME, \
            application:NAME or subscription:APPLICATION/API";
        const FORM_OF_OPAQUE: &str = "an opaque token is named by its SHA-256, opaque: and 64 lower-case hexadecimal \
            digits; the token itself must not stand here";
        let (word, subject) = text.split_once(':').ok_or(FORM)?;
        let kind = RevokedKind::ALL.into_iter().find(|kind| kind.word() == word).ok_or(FORM)?;
        let has_two_parts = matches!(kind, RevokedKind::Subscription | RevokedKind::Token);
        let is_sound = match subject.split_once('/') {
            Some((first, second)) => !first.is_empty() && !second.is_empty(),
            None => !subject.is_empty() && !has_two_parts,
        };
        if kind == RevokedKind::Opaque {
            // A token itself would revoke nothing, and be readable wherever revocations are.
            subject.parse::<SecretHash>().map_err(|_| FORM_OF_OPAQUE)?;
        }
        if is_sound { Ok(Self { kind, subject: subject.into() }) } else { Err(FORM) }
    }
}

super::text_form!(Revoked, "framegate-revoked", "KIND:SUBJECT, such as user:alice or key:mobile-1.");

// A million keys stand in memory as they are here.
const _: () = assert!(size_of::<ApiKey>() <= 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_in_seconds() {
        for (text, secs) in [
            ("2027-01-31T12:00:00Z", 1_801_396_800),
            ("2027-01-31T13:00:00+01:00", 1_801_396_800),
            ("2027-01-31T12:00:00.999Z", 1_801_396_800),
            ("1970-01-01T00:00:01Z", 1),
            ("9999-12-31T23:59:59Z", LAST_SECOND),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().as_secs(), secs, "{text}");
        }
        assert_eq!(Timestamp::from_secs(1_801_396_800).to_string(), "2027-01-31T12:00:00Z");
        for text in
            ["", "tomorrow", "2027-01-31", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2027-02-30T00:00:00Z"]
        {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert_eq!(Timestamp::from_secs(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Timestamp::from_secs(0).as_secs(), 1);
    }

    #[test]
    fn hashes_are_hexadecimal_for_people_and_octets_on_the_wire() {
        let hash = SecretHash::of("abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(serde_json::to_value(hash).unwrap(), text);
        assert_eq!(serde_json::from_value::<SecretHash>(text.into()).unwrap(), hash);
        let packed = rmp_serde::to_vec_named(&hash).unwrap();
        assert_eq!(packed.len(), 34);
        assert_eq!(rmp_serde::from_slice::<SecretHash>(&packed).unwrap(), hash);
        for bad in ["", "BA7816BF", &text.to_uppercase(), &text[1..]] {
            assert!(serde_json::from_value::<SecretHash>(bad.into()).is_err(), "{bad}");
        }
        assert!(rmp_serde::from_slice::<SecretHash>(&[0xc4, 2, 1, 2]).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let hash = format!("{:?}", SecretHash::of("abc"));
        let password = format!("{:?}", PasswordHash("$argon2id$v=19$secret".into()));
        assert_eq!((hash.as_str(), password.as_str()), ("SecretHash", "PasswordHash"));
    }

    #[test]
    fn what_is_revoked_is_read_and_shown() {
        for text in [
            "token:idp/4f2a",
            "token:idp/a/b",
            "opaque:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "key:mobile-1",
            "client:a:b",
            "user:alice@example.com",
            "application:mobile",
            "subscription:mobile/chat:v1",
        ] {
            assert_eq!(text.parse::<Revoked>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "user",
            "user:",
            "token:idp",
            "token:/x",
            "token:idp/",
            "subscription:mobile",
            "group:x",
            "User:x",
            "opaque:ba7816",
            "opaque:the-token-itself-of-sixty-four-characters-which-is-not-its-hash!",
            "opaque:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        ] {
            assert!(text.parse::<Revoked>().is_err(), "{text}");
        }
    }

    #[test]
    fn kinds_stand_in_the_order_of_their_words() {
        assert!(RevokedKind::ALL.windows(2).all(|pair| pair[0] < pair[1] && pair[0].word() < pair[1].word()));
    }
}
