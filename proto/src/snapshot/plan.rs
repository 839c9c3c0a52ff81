//! How much may pass: plans, the policies that choose among them, limits by key, denials, and who is let in at all.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::units::{DURATION_UNITS, SIZE_UNITS, scaled};
use super::{Cidr, Conditions, Duration, is_default, is_true, yes};
use crate::throttle::{Terms, Window, WindowUnit};

/// The most tokens that a rate, a burst or a quota may name: 8 PiB.
pub const AMOUNT_MAX: u64 = 1 << 53;

/// A named plan: limits that all must let a message pass, and what happens where one does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The plan's name, unique. One that the gateway brings (`AsyncGold`, ...) is replaced by one of yours.
    pub name: String,
    /// Each is asked before any is charged. None: nothing is limited.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: Vec<Limit>,
    /// Whose messages count.
    #[serde(default, skip_serializing_if = "is_default")]
    pub direction: Counted,
    /// What happens to a message that is too much.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_limit: OnLimit,
    /// At which part of a quota a warning is logged, in percent.
    #[serde(default = "warn_at", skip_serializing_if = "is_warn_at")]
    pub warn_at: Vec<u8>,
    /// Live sessions of all who share a count of the plan, at whichever level has it, at most; 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sessions_max: u32,
}

const WARN_AT: [u8; 2] = [80, 95];

fn warn_at() -> Vec<u8> {
    WARN_AT.to_vec()
}

fn is_warn_at(at: &[u8]) -> bool {
    at == WARN_AT
}

impl Plan {
    /// A plan with these limits, everything else at its default.
    pub fn new(name: impl Into<String>, limits: Vec<Limit>) -> Self {
        Self {
            name: name.into(),
            limits,
            direction: Counted::default(),
            on_limit: OnLimit::default(),
            warn_at: warn_at(),
            sessions_max: 0,
        }
    }

    /// The names of the plans that the gateway brings.
    pub const BUILT_IN: [&str; 5] =
        [super::UNLIMITED_PLAN, "AsyncGold", "AsyncSilver", "AsyncBronze", UNAUTHENTICATED_PLAN];

    /// The plans that the gateway brings: those of WSO2 API Manager for WebSocket APIs.
    pub fn built_in() -> impl Iterator<Item = Self> {
        let quota =
            |amount, unit| Limit { quota: Some(Quota { amount, window: Window::one(unit) }), ..Limit::default() };
        let limits = [
            Vec::new(),
            vec![quota(50_000, WindowUnit::Day)],
            vec![quota(25_000, WindowUnit::Day)],
            vec![quota(5000, WindowUnit::Day)],
            vec![quota(500, WindowUnit::Minute)],
        ];
        Self::BUILT_IN.into_iter().zip(limits).map(|(name, limits)| Self::new(name, limits))
    }
}

/// The built-in plan that is meant for clients without a credential.
pub const UNAUTHENTICATED_PLAN: &str = "Unauthenticated";

/// One limit of a plan: a rate, or a quota.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limit {
    /// What is counted.
    #[serde(skip_serializing_if = "is_default")]
    pub count: Unit,
    /// A token bucket: so many flow in, such as `100/s`, `6000/m` or `512KiB/s`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(with = "Rate")]
    pub rate: Option<Rate>,
    /// What the bucket holds, and so how many may come at once. None: as many as flow in during a second, and at least one
    /// unless the rate is 0. It is never 0 itself, unless the rate is.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(with = "Amount")]
    pub burst: Option<Amount>,
    /// So many in each window of the calendar, UTC: `50000/day`, `1GiB/month`, `1000/15 minutes`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(with = "Quota")]
    pub quota: Option<Quota>,
    /// A message that is too much is stopped. Off: it passes, and is recorded.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub stop: bool,
}

impl Default for Limit {
    fn default() -> Self {
        Self { count: Unit::default(), rate: None, burst: None, quota: None, stop: true }
    }
}

impl Serialize for Limit {
    /// As an operator writes it: only bytes are counted in MiB.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written {
            #[serde(skip_serializing_if = "is_default")]
            count: Unit,
            #[serde(skip_serializing_if = "is_default")]
            rate: Option<String>,
            #[serde(skip_serializing_if = "is_default")]
            burst: Option<String>,
            #[serde(skip_serializing_if = "is_default")]
            quota: Option<String>,
            #[serde(skip_serializing_if = "is_true")]
            stop: bool,
        }
        fn written(one: impl fmt::Display, unit: Unit) -> String {
            if unit == Unit::Bytes { one.to_string() } else { format!("{one:#}") }
        }
        let Self { count, rate, burst, quota, stop } = *self;
        Written {
            count,
            rate: rate.map(|rate| written(rate, count)),
            burst: burst.map(|burst| written(burst, count)),
            quota: quota.map(|quota| written(quota, count)),
            stop,
        }
        .serialize(serializer)
    }
}

impl Limit {
    /// What it comes to; `None`: it says neither a rate nor a quota, or both.
    pub fn terms(&self) -> Option<Terms> {
        match (self.rate, self.quota) {
            (Some(rate), None) => {
                // One at least, or a slow rate would let nothing pass; where none flow in, nothing shall.
                let least = rate.amount.min(1);
                let burst = self.burst.map_or_else(|| rate.in_a_second().max(least), |burst| burst.0);
                let per_ns = rate.per.as_ms().saturating_mul(1_000_000);
                Some(Terms::Bucket { amount: rate.amount, per_ns, burst })
            }
            (None, Some(Quota { amount, window })) => Some(Terms::Quota { amount, window }),
            _ => None,
        }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Data messages, however many fragments they have.
    #[default]
    Messages,
    /// Data frames: every fragment of a message.
    Frames,
    /// Bytes of payload, as they are on the wire: compressed ones where they are compressed.
    Bytes,
}

/// Whose messages a plan counts. Both directions have one count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Counted {
    /// The client's and the server's together.
    #[default]
    Both,
    /// Those that the client sends.
    Client,
    /// Those that the server sends.
    Server,
}

/// What happens to a message that is too much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnLimit {
    /// The outcome.
    #[serde(skip_serializing_if = "is_default")]
    pub action: Outcome,
    /// What the client reads in its stead, where it is told.
    #[serde(skip_serializing_if = "is_default")]
    pub notice: Notice,
    /// Notices of one session that come at once; what is beyond is dropped quietly, and counted.
    #[serde(skip_serializing_if = "is_notice_burst")]
    pub notices: u32,
    /// And as many more each second.
    #[serde(skip_serializing_if = "is_notices_per_second")]
    pub notices_per_second: u32,
    /// After so many messages of one side in a row that were too much the session is closed; 0: it is not. Says nothing where
    /// they are delayed.
    #[serde(skip_serializing_if = "is_default")]
    pub close_after: u32,
    /// The code of that close, and of `close`: 1008, 1013, 3000, or 4000 to 4999.
    #[serde(skip_serializing_if = "is_policy_violation")]
    pub code: u16,
    /// Its reason, at most 123 bytes.
    #[serde(skip_serializing_if = "is_too_much")]
    pub reason: String,
}

const NOTICES: u32 = 100;
const NOTICES_PER_SECOND: u32 = 10;
const POLICY_VIOLATION: u16 = 1008;
const TOO_MUCH: &str = "throttled out";

fn is_notice_burst(notices: &u32) -> bool {
    *notices == NOTICES
}

fn is_notices_per_second(notices: &u32) -> bool {
    *notices == NOTICES_PER_SECOND
}

fn is_policy_violation(code: &u16) -> bool {
    *code == POLICY_VIOLATION
}

fn is_too_much(reason: &str) -> bool {
    reason == TOO_MUCH
}

impl Default for OnLimit {
    fn default() -> Self {
        Self {
            action: Outcome::default(),
            notice: Notice::default(),
            notices: NOTICES,
            notices_per_second: NOTICES_PER_SECOND,
            close_after: 0,
            code: POLICY_VIOLATION,
            reason: TOO_MUCH.into(),
        }
    }
}

/// What happens to a message that is too much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is left out, and the client is told in a text frame.
    #[default]
    Notify,
    /// It is left out.
    Drop,
    /// It waits: its sender is not read until there is room, and TCP tells it so.
    Delay,
    /// The session is closed.
    Close,
}

/// What a client reads where a message was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// As WSO2 API Manager says it: `Error code: 4003 reason: Websocket frame throttled out`.
    #[default]
    Wso2,
    /// As WSO2 API Manager 2.1 said it: `Websocket frame throttled out`.
    Wso2Short,
    /// `{"error":{"code":4003,"level":"subscription","message":"throttled out","plan":"AsyncGold","retry_after_ms":1200}}`;
    /// `null` where nothing will pass any more.
    Json,
    /// A text, in which `{level}`, `{plan}`, `{code}` and `{retry_after_ms}` stand for what they say; the last is `never`
    /// where nothing will pass any more.
    Text(String),
}

/// A policy for APIs and topics: which plan holds for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitPolicy {
    /// The policy's name, unique.
    pub name: String,
    /// Asked in their order; the first that fits decides.
    #[serde(default, skip_serializing_if = "is_default")]
    pub groups: Vec<ConditionGroup>,
    /// The plan of everybody else. Empty: nothing is limited.
    #[serde(default, skip_serializing_if = "is_default")]
    pub plan: String,
}

/// Who is meant, and their plan. They have one count together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConditionGroup {
    /// All of these must hold; each may be turned round with `not`.
    pub when: Vec<Conditions>,
    /// The plan's name.
    pub plan: String,
}

/// A limit by a key of your own: everybody whose handshake makes the same key has one count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyedLimit {
    /// The limit's name, unique: notices name it as the level, logs and usage before the key.
    pub name: String,
    /// What tells one count from another: everybody of whom all of these are the same has one. Who lacks one of them is
    /// not limited. At least one.
    pub key: Vec<KeyPart>,
    /// The plan's name.
    pub plan: String,
    /// The APIs that it is for, `name:version`, or `name` for all versions. None: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub apis: Vec<String>,
    /// It is only for whom all of these fit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when: Vec<Conditions>,
}

/// Something of a handshake: `address`, `address/24` (and `/64` of IPv6), `address/24/56`, `header:NAME`, `query:NAME`,
/// `claim:NAME`, `user`, `application`, `certificate`, `api` or `session`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// The client's address, as far as so many leading bits of it.
    Address {
        /// Of IPv4, at most 32.
        v4: u8,
        /// Of IPv6, at most 128.
        v6: u8,
    },
    /// A header of the request.
    Header(String),
    /// A query parameter.
    Query(String),
    /// A claim; `a.b` is the member `b` of the claim `a`.
    Claim(String),
    /// The user.
    User,
    /// The application.
    Application,
    /// The subject of the client's certificate.
    Certificate,
    /// The API version.
    Api,
    /// The session itself: each has a count of its own.
    Session,
}

/// Whose messages do not pass, from now on, on live sessions too. All that is said must fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// The denial's name, unique.
    pub name: String,
    /// An API: `name:version`, or `name` for all its versions.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub api: Option<String>,
    /// An application's name. With `api`: its subscription.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub application: Option<String>,
    /// A user's name.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub user: Option<String>,
    /// Ranges of client addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub addresses: Vec<Cidr>,
    /// What happens: new sessions are refused (403) in any case.
    #[serde(default, skip_serializing_if = "is_default")]
    pub action: DenialAction,
    /// Off: kept, and without effect.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// What a denial does to live sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DenialAction {
    /// They are closed with 1008.
    #[default]
    Close,
    /// Their messages are left out, as long as the denial stands.
    Drop,
}

/// How many sessions are let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admission {
    /// Live sessions, at most; 0: any number. More are answered with 503.
    #[serde(skip_serializing_if = "is_default")]
    pub sessions_max: u32,
    /// Live sessions of one user, at most; 0: any number. More are answered with 429, as all below.
    #[serde(skip_serializing_if = "is_default")]
    pub sessions_per_user_max: u32,
    /// Live sessions of one application, at most; 0: any number.
    #[serde(skip_serializing_if = "is_default")]
    pub sessions_per_application_max: u32,
    /// Live sessions from one range of client addresses, at most; 0: any number.
    #[serde(skip_serializing_if = "is_default")]
    pub sessions_per_address_max: u32,
    /// How fast handshakes may come, such as `500/s`, and never 0; more are answered with 503 and `Retry-After`. None: any
    /// number.
    #[serde(skip_serializing_if = "is_default", serialize_with = "plain")]
    #[schemars(with = "Rate")]
    pub connects: Option<Rate>,
    /// How fast they may come from one range of client addresses, never 0; more are answered with 429 and `Retry-After`.
    #[serde(skip_serializing_if = "is_default", serialize_with = "plain")]
    #[schemars(with = "Rate")]
    pub connects_per_address: Option<Rate>,
    /// How many handshakes may come at once, at least one. None: as many as in a second.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(with = "u32")]
    pub connects_burst: Option<u32>,
    /// How many leading bits of an IPv4 address make a range.
    #[serde(default = "v4_prefix", skip_serializing_if = "is_v4_prefix")]
    pub address_prefix_v4: u8,
    /// How many leading bits of an IPv6 address make a range.
    #[serde(default = "v6_prefix", skip_serializing_if = "is_v6_prefix")]
    pub address_prefix_v6: u8,
}

/// An amount with an optional unit of bytes: `5000`, `64KiB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(pub u64);

/// So many in so much time: `100/s`, `6000/m`, `512KiB/s`, `20/500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub amount: u64,
    /// In how long; at least a millisecond.
    pub per: Duration,
}

impl Rate {
    /// How many come in a second.
    pub fn in_a_second(self) -> u64 {
        let amount = u128::from(self.amount) * 1000 / u128::from(self.per.as_ms().max(1));
        u64::try_from(amount).unwrap_or(u64::MAX)
    }
}

/// So many in each window of the calendar: `50000/day`, `1GiB/month`, `1000/15 minutes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// How many.
    pub amount: u64,
    /// The windows.
    pub window: Window,
}

const V4_PREFIX: u8 = 32;
/// What one customer usually has.
const V6_PREFIX: u8 = 64;

impl Default for Admission {
    fn default() -> Self {
        Self {
            sessions_max: 0,
            sessions_per_user_max: 0,
            sessions_per_application_max: 0,
            sessions_per_address_max: 0,
            connects: None,
            connects_per_address: None,
            connects_burst: None,
            address_prefix_v4: V4_PREFIX,
            address_prefix_v6: V6_PREFIX,
        }
    }
}

/// A rate of what are no bytes.
fn plain<S: Serializer>(rate: &Option<Rate>, serializer: S) -> Result<S::Ok, S::Error> {
    rate.map(|rate| format!("{rate:#}")).serialize(serializer)
}

fn v4_prefix() -> u8 {
    V4_PREFIX
}

fn is_v4_prefix(bits: &u8) -> bool {
    *bits == V4_PREFIX
}

fn v6_prefix() -> u8 {
    V6_PREFIX
}

fn is_v6_prefix(bits: &u8) -> bool {
    *bits == V6_PREFIX
}

const UNITS: [(&str, WindowUnit); 7] = [
    ("second", WindowUnit::Second),
    ("minute", WindowUnit::Minute),
    ("hour", WindowUnit::Hour),
    ("day", WindowUnit::Day),
    ("week", WindowUnit::Week),
    ("month", WindowUnit::Month),
    ("year", WindowUnit::Year),
];

/// Digits, with a unit of bytes or without.
fn amount(text: &str) -> Option<u64> {
    let amount = text.parse().ok().or_else(|| scaled(text, &SIZE_UNITS))?;
    (amount <= AMOUNT_MAX).then_some(amount)
}

/// The largest binary unit that fits, from mebibytes on: below, plain numbers are more often messages. Where it is known
/// that no bytes are counted, the alternate form (`{:#}`) is always a plain number.
fn show_amount(amount: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let binary = SIZE_UNITS.into_iter().take(2).find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor));
    match binary {
        Some((unit, factor)) if !f.alternate() => write!(f, "{}{unit}", amount / factor),
        _ => write!(f, "{amount}"),
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_amount(self.0, f)
    }
}

impl FromStr for Amount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        amount(text).map(Self).ok_or("an amount is a whole number, or one with a unit of bytes: 5000, 64KiB, 1GiB")
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_amount(self.amount, f)?;
        match DURATION_UNITS.into_iter().find(|(_, ms)| *ms == self.per.as_ms()) {
            Some((unit, _)) => write!(f, "/{unit}"),
            None => write!(f, "/{}", self.per),
        }
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a rate is an amount and a time: 100/s, 6000/m, 512KiB/s, 20/500ms";
        let (number, per) = text.split_once('/').ok_or(FORM)?;
        let per = match DURATION_UNITS.into_iter().find(|(unit, _)| *unit == per) {
            Some((_, ms)) => Duration::from_ms(ms),
            None => per.parse().map_err(|_| FORM)?,
        };
        if per.is_zero() || per.as_ms() > YEAR_MS {
            return Err("the time of a rate is a millisecond to a year");
        }
        Ok(Self { amount: amount(number).ok_or(FORM)?, per })
    }
}

const YEAR_MS: u64 = 366 * 86_400_000;

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_amount(self.amount, f)?;
        let unit = UNITS.into_iter().find(|(_, unit)| *unit == self.window.unit).map_or("", |(word, _)| word);
        match self.window.count {
            0 | 1 => write!(f, "/{unit}"),
            count => write!(f, "/{count} {unit}s"),
        }
    }
}

impl FromStr for Quota {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a quota is an amount and a window of the calendar: 50000/day, 1GiB/month, 1000/15 minutes";
        let (number, window) = text.split_once('/').ok_or(FORM)?;
        let digits = window.bytes().take_while(u8::is_ascii_digit).count();
        let (count, word) = window.split_at(digits);
        let count = if count.is_empty() { 1 } else { count.parse().map_err(|_| FORM)? };
        let word = word.trim_start();
        let word = if count > 1 { word.strip_suffix('s').ok_or(FORM)? } else { word };
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == word).ok_or(FORM)?;
        if count == 0 || count > 1000 {
            return Err("a window has 1 to 1000 units of the calendar");
        }
        Ok(Self { amount: amount(number).ok_or(FORM)?, window: Window { unit, count } })
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { v4: V4_PREFIX, v6: V6_PREFIX } => f.write_str("address"),
            Self::Address { v4, v6: V6_PREFIX } => write!(f, "address/{v4}"),
            Self::Address { v4, v6 } => write!(f, "address/{v4}/{v6}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Claim(name) => write!(f, "claim:{name}"),
            Self::User => f.write_str("user"),
            Self::Application => f.write_str("application"),
            Self::Certificate => f.write_str("certificate"),
            Self::Api => f.write_str("api"),
            Self::Session => f.write_str("session"),
        }
    }
}

impl FromStr for KeyPart {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a part of a key is address, address/24, address/24/56, header:NAME, query:NAME, claim:NAME, \
            user, application, certificate, api or session";
        if let Some((kind, name)) = text.split_once(':') {
            return match kind {
                _ if name.is_empty() => Err(FORM),
                "header" => Ok(Self::Header(name.into())),
                "query" => Ok(Self::Query(name.into())),
                "claim" => Ok(Self::Claim(name.into())),
                _ => Err(FORM),
            };
        }
        Ok(match text {
            "user" => Self::User,
            "application" => Self::Application,
            "certificate" => Self::Certificate,
            "api" => Self::Api,
            "session" => Self::Session,
            "address" => Self::Address { v4: V4_PREFIX, v6: V6_PREFIX },
            _ => {
                let bits = text.strip_prefix("address/").ok_or(FORM)?;
                let (v4, v6) = bits.split_once('/').unwrap_or((bits, "64"));
                let (v4, v6) = (v4.parse().map_err(|_| FORM)?, v6.parse().map_err(|_| FORM)?);
                if v4 > 32 || v6 > 128 {
                    return Err("an IPv4 address has 32 bits, an IPv6 address 128");
                }
                Self::Address { v4, v6 }
            }
        })
    }
}

super::text_form!(
    KeyPart,
    "framegate-key-part",
    "address, address/24, address/24/56, header:NAME, query:NAME, claim:NAME, user, application, certificate, api or session."
);
super::units::as_text!(
    Amount,
    "an amount such as 5000, 64KiB or 1GiB",
    |number| (number <= AMOUNT_MAX).then_some(Amount(number)),
    json_schema!({
        "type": ["string", "integer"],
        "format": "framegate-amount",
        "pattern": "^[0-9]+(B|KB|MB|GB|KiB|MiB|GiB)?$",
        "minimum": 0,
        "maximum": AMOUNT_MAX,
        "description": "A number, plain or with a unit of bytes: 5000, 64KiB, 1GiB."
    })
);
super::text_form!(Rate, "framegate-rate", "An amount and a time: 100/s, 6000/m, 512KiB/s, 20/500ms.");
super::text_form!(
    Quota,
    "framegate-quota",
    "An amount and a window of the calendar, UTC: 50000/day, 1GiB/month, 1000/15 minutes."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown() {
        for (text, amount, ms, shown) in [
            ("100/s", 100, 1000, "100/s"),
            ("6000/m", 6000, 60_000, "6000/m"),
            ("512KiB/s", 512 << 10, 1000, "524288/s"),
            ("2MiB/s", 2 << 20, 1000, "2MiB/s"),
            ("20/500ms", 20, 500, "20/500ms"),
            ("1/h", 1, 3_600_000, "1/h"),
            ("0/s", 0, 1000, "0/s"),
            ("7/1s", 7, 1000, "7/s"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.amount, rate.per.as_ms()), (amount, ms), "{text}");
            assert_eq!(rate.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(rate));
        }
        for text in ["", "100", "/s", "100/", "100/0", "100/x", "-1/s", "1.5/s", "100/400d", "9007199254740993/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
        assert_eq!("600/m".parse::<Rate>().unwrap().in_a_second(), 10);
    }

    #[test]
    fn quotas_are_read_and_shown() {
        for (text, amount, unit, count) in [
            ("50000/day", 50_000, WindowUnit::Day, 1),
            ("1GiB/month", 1 << 30, WindowUnit::Month, 1),
            ("1000/15 minutes", 1000, WindowUnit::Minute, 15),
            ("0/second", 0, WindowUnit::Second, 1),
            ("3/2 weeks", 3, WindowUnit::Week, 2),
        ] {
            let quota: Quota = text.parse().unwrap();
            assert_eq!(quota, Quota { amount, window: Window { unit, count } }, "{text}");
            assert_eq!(quota.to_string(), text);
        }
        assert_eq!("5/15minutes".parse::<Quota>().unwrap().to_string(), "5/15 minutes");
        for text in ["", "5", "5/", "5/days", "5/2 day", "5/0 days", "5/fortnight", "x/day", "5/1001 days", "5/d"] {
            assert!(text.parse::<Quota>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_what_counts_bytes_is_written_in_units_of_bytes() {
        let limit = r#"{"count":"COUNT","rate":"2MiB/s","burst":"1GiB","stop":false}"#;
        for (count, rate, burst) in [("frames", "2097152/s", "1073741824"), ("bytes", "2MiB/s", "1GiB")] {
            let limit: Limit = serde_json::from_str(&limit.replace("COUNT", count)).unwrap();
            let written = format!(r#"{{"count":"{count}","rate":"{rate}","burst":"{burst}","stop":false}}"#);
            assert_eq!(serde_json::to_string(&limit).unwrap(), written);
            assert_eq!(serde_json::from_str::<Limit>(&written).unwrap(), limit);
        }
        let limit: Limit = serde_json::from_str(r#"{"quota": "1MiB/2 days"}"#).unwrap();
        assert_eq!(serde_json::to_string(&limit).unwrap(), r#"{"quota":"1048576/2 days"}"#);
        let admission: Admission = serde_json::from_str(r#"{"connects": "1048576/s"}"#).unwrap();
        assert_eq!(serde_json::to_string(&admission).unwrap(), r#"{"connects":"1048576/s"}"#);
    }

    #[test]
    fn parts_of_keys_are_read_and_shown() {
        for text in [
            "address",
            "address/24",
            "address/24/56",
            "header:X-Tenant",
            "query:room",
            "claim:a.b",
            "user",
            "application",
            "certificate",
            "api",
            "session",
        ] {
            assert_eq!(text.parse::<KeyPart>().unwrap().to_string(), text);
        }
        assert_eq!("address/32/64".parse::<KeyPart>().unwrap().to_string(), "address");
        for text in ["", "ip", "header:", "header", "address/33", "address/24/129", "address/", "cookie:x"] {
            assert!(text.parse::<KeyPart>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_limit_is_a_rate_or_a_quota() {
        let limit = |text: &str| serde_json::from_str::<Limit>(text).unwrap().terms();
        let bucket = |amount, per_ns, burst| Some(Terms::Bucket { amount, per_ns, burst });
        assert_eq!(limit(r#"{"rate": "100/s", "burst": 200}"#), bucket(100, 1_000_000_000, 200));
        assert_eq!(limit(r#"{"rate": "600/m"}"#), bucket(600, 60_000_000_000, 10));
        assert_eq!(limit(r#"{"rate": "1/h"}"#), bucket(1, 3_600_000_000_000, 1), "at least one");
        let window = Window::one(WindowUnit::Day);
        assert_eq!(limit(r#"{"quota": "5/day", "count": "bytes"}"#), Some(Terms::Quota { amount: 5, window }));
        assert_eq!(limit("{}"), None);
        assert_eq!(limit(r#"{"rate": "1/s", "quota": "5/day"}"#), None);
    }
}
