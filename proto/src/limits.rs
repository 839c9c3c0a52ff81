//! Every ceiling of the words, with its name, its unit and its reason.
//!
//! Ceilings that an operator may move are fields of the snapshot; the numbers here bound those fields.

/// Bytes of a request or response head, request line and blank line included. nginx's default is 8 KiB a line.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields in one head.
pub const HEADERS_MAX: usize = 100;
/// Bytes of a request target; more is a 414.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Payload bytes of a control frame, RFC 6455 §5.5.
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// Bytes of the longest frame header: two, eight of length, four of key. RFC 6455 §5.2.
pub const FRAME_HEADER_MAX: usize = 14;
/// Subprotocols in one offer.
pub const SUBPROTOCOLS_MAX: usize = 32;
/// Extensions in one offer or answer, those that are not known included.
pub const EXTENSIONS_MAX: usize = 16;
/// Parameters of one extension; permessage-deflate has four.
pub const EXTENSION_PARAMETERS_MAX: usize = 16;
/// Bytes of a request method; the longest of the registry has 17.
pub const METHOD_BYTES_MAX: usize = 32;
/// Bytes of a host name, RFC 1035 §2.3.4.
pub const HOST_BYTES_MAX: usize = 255;
/// Options in the `Connection` fields of one head; each is compared with each field that would be forwarded.
pub const CONNECTION_OPTIONS_MAX: usize = 64;
/// Bytes of a chunk's size line, extensions and CRLF included.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Bytes of the trailer section behind a chunked body, its blank line included.
pub const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Bytes of the forwarding fields that are kept of a request from a trusted proxy, before our own element.
pub const FORWARDED_BYTES_MAX: usize = 2 * 1024;

/// Bytes of one control envelope's payload and kind: room for a full push of about 100,000 APIs.
pub const ENVELOPE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of one envelope that is not a push; everything but a push is small.
pub const SMALL_ENVELOPE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Listeners in one snapshot.
pub const LISTENERS_MAX: usize = 256;
/// Upstreams in one snapshot.
pub const UPSTREAMS_MAX: usize = 100_000;
/// Endpoints of one upstream.
pub const ENDPOINTS_MAX: usize = 1024;
/// API versions in one snapshot.
pub const APIS_MAX: usize = 200_000;
/// Certificates with keys in a configuration.
pub const CERTIFICATES_MAX: usize = 10_000;
/// Named groups of certification authorities in a configuration.
pub const AUTHORITIES_MAX: usize = 256;
/// Alternative names that are read of a peer's certificate, for headers and logs.
pub const CERTIFICATE_NAMES_MAX: usize = 16;
/// Bytes of a distinguished name, or of an alternative name, of a peer's certificate; longer ones are left out.
pub const CERTIFICATE_TEXT_BYTES_MAX: usize = 1024;
/// Revocation lists of one group of authorities.
pub const REVOCATIONS_MAX: usize = 64;
/// Pinned public keys of one upstream.
pub const PINS_MAX: usize = 64;
/// Bytes of a certificate chain in PEM: some thirty certificates with RSA keys of 4096 bits.
pub const CHAIN_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a private key in PEM; an RSA key of 4096 bits has 3.2 KiB.
pub const KEY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an OCSP response in PEM; with its responder's certificate one has 2 to 4 KiB.
pub const OCSP_RESPONSE_BYTES_MAX: usize = 32 * 1024;
/// Bytes of one group's authorities in PEM; those of a whole operating system have 220 KiB.
pub const AUTHORITIES_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one revocation list in PEM: some 300,000 revoked certificates.
pub const REVOCATION_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of all certificates, keys and lists of a configuration, so that they leave room for the rest in a push.
pub const PEM_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Topics of one API version.
pub const TOPICS_MAX: usize = 1024;
/// Bytes of a name (API, upstream, listener, node).
pub const NAME_BYTES_MAX: usize = 128;
/// Bytes of a context or a topic.
pub const PATH_BYTES_MAX: usize = 1024;
/// Sections in one snapshot: settings, listeners, authorities, issuers, assertions, plans, limit_policies, limits,
/// denials, and eight families of buckets.
pub const SECTIONS_MAX: usize = 9 + 8 * BUCKETS;
/// Buckets that APIs, and upstreams, are spread over by the hash of their name.
pub const BUCKETS: usize = 256;

/// Issuers in a configuration.
pub const ISSUERS_MAX: usize = 256;
/// Assertions in a configuration.
pub const ASSERTIONS_MAX: usize = 256;
/// Plans in a configuration.
pub const PLANS_MAX: usize = 10_000;
/// Limits of one plan.
pub const PLAN_LIMITS_MAX: usize = 8;
/// Policies of limits in a configuration, and condition groups of one.
pub const LIMIT_POLICIES_MAX: usize = 1000;
/// Limits by keys in a configuration, of which every handshake makes a key.
pub const KEYED_LIMITS_MAX: usize = 64;
/// Denials in a configuration, each of which every handshake is compared with.
pub const DENIALS_MAX: usize = 10_000;
/// Rows of one answer about what is used of limits.
pub const USAGE_ROWS_MAX: usize = 1000;
/// Keys of limits that a data plane keeps at one time, about 0.4 KB each, and at most half of them of one scope; further
/// ones share a count.
pub const LIMIT_KEYS_MAX: usize = 2_000_000;
/// Applications in a configuration.
pub const APPLICATIONS_MAX: usize = 1_000_000;
/// Subscriptions in a configuration.
pub const SUBSCRIPTIONS_MAX: usize = 2_000_000;
/// API keys in a configuration.
pub const API_KEYS_MAX: usize = 2_000_000;
/// Users in a configuration.
pub const USERS_MAX: usize = 1_000_000;
/// Revocations in a configuration.
pub const REVOKED_MAX: usize = 1_000_000;
/// How many of them are left to operators: clients of the token endpoint fill the rest only.
pub const REVOKED_RESERVE: usize = 100_000;
/// Access tokens that one client of the token endpoint revokes in a minute, and as many of each of its users because refresh
/// tokens were used twice.
pub const REVOCATIONS_PER_MINUTE_MAX: u32 = 600;
/// Refresh tokens that one client has at one time for one user, or for itself; for one more the oldest goes.
pub const REFRESH_TOKENS_OF_USER_MAX: usize = 100;
/// Refresh tokens that one client has at one time for everybody; for one more the oldest goes.
pub const REFRESH_TOKENS_OF_CLIENT_MAX: usize = 1_000_000;
/// Access tokens of one grant that are good at one time, each got with a refresh token; for one more the client waits.
pub const GRANT_ACCESS_TOKENS_MAX: usize = 500;
/// Used refresh tokens of one grant that are remembered, so that a second use is noticed.
pub const GRANT_REFRESHES_MAX: usize = 2000;
/// OAuth2 clients of one application.
pub const CLIENTS_MAX: usize = 64;
/// Scopes in one list, and audiences of one issuer.
pub const SCOPES_MAX: usize = 256;
/// Bytes of a scope, of a claim's name, and of a URL that is called.
pub const WORD_BYTES_MAX: usize = 1024;
/// Bytes of the subject of a token or certificate, and of what is revoked.
pub const SUBJECT_BYTES_MAX: usize = 1024;
/// Bytes of a set of public keys, RFC 7517.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Keys of one issuer.
pub const JWKS_KEYS_MAX: usize = 100;
/// Bytes of a token or key that a client presents; a longer one is not looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Tokens that one worker remembers as verified.
pub const VERIFIED_TOKENS_MAX: usize = 8192;
/// Bytes that they may take, as estimated from the length of each.
pub const VERIFIED_TOKENS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Passwords that wait for their check, beside the two that are being checked; each takes some 20 ms.
pub const PASSWORD_CHECKS_MAX: usize = 64;
/// Handshakes that wait for the check of one password.
pub const PASSWORD_WAITING_MAX: usize = 4096;
/// Passwords of which it is known whether they are good.
pub const PASSWORDS_KNOWN_MAX: usize = 16 * 1024;
/// Memory that a check of a password may take, KiB: thirteen times what is usual.
pub const PASSWORD_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// Opaque tokens of handshakes that wait until one issuer is asked, and as many of live sessions.
pub const INQUIRIES_MAX: usize = 256;
/// Opaque tokens that one issuer is being asked about at one time.
pub const INQUIRIES_OF_ISSUER_MAX: usize = 32;
/// Opaque tokens that all issuers are being asked about at one time.
pub const INQUIRIES_UNDER_WAY_MAX: usize = 256;
/// Handshakes that wait for what is heard of one opaque token.
pub const INQUIRIES_WAITING_MAX: usize = 4096;
/// Opaque tokens that are known to be good.
pub const TOKENS_HEARD_MAX: usize = 64 * 1024;
/// Opaque tokens that are known not to be.
pub const TOKENS_REFUSED_MAX: usize = 16 * 1024;
/// Bytes of an answer about a token.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Steps of one on-upgrade policy.
pub const STEPS_MAX: usize = 256;
/// Conditions, values and routes of one step.
pub const STEP_ENTRIES_MAX: usize = 1024;
/// Bytes of a template, and of what comes of it.
pub const TEMPLATE_BYTES_MAX: usize = 2 * 1024;
/// Questions to services that decide for policies, under way at one time in a data plane.
pub const FORWARD_AUTH_CALLS_MAX: usize = 1024;
/// Bytes of such a service's answer that are relayed to a client.
pub const FORWARD_AUTH_BODY_BYTES_MAX: usize = 64 * 1024;
/// Nesting of a token's claims.
pub const CLAIM_DEPTH_MAX: usize = 16;

/// Hosts of one API version; also its listeners are bounded, by [`LISTENERS_MAX`].
pub const HOSTS_MAX: usize = 256;
/// Origins of one API version.
pub const ORIGINS_MAX: usize = 256;
/// Pairs of host and path in one snapshot: what the hosts, versions and default versions of all APIs multiply to.
pub const ROUTES_MAX: usize = 1_000_000;
/// Address ranges in one list of a listener.
pub const CIDRS_MAX: usize = 1024;
/// Names of secret query parameters.
pub const SECRET_PARAMETERS_MAX: usize = 256;
/// Problems that are told at once, so that a rejection always fits its envelope; the rest is counted.
pub const PROBLEMS_MAX: usize = 1000;
/// The longest duration that a configuration may name, milliseconds: 366 days.
pub const DURATION_MS_MAX: u64 = 366 * 86_400_000;
/// The longest drain window, milliseconds: a day.
pub const DRAIN_WINDOW_MS_MAX: u64 = 86_400_000;
/// Nesting of a section's MessagePack; the model needs 10.
pub const SECTION_DEPTH_MAX: usize = 16;

/// The smallest and largest send budget of one direction of a session, bytes.
pub const SEND_BUDGET_MIN: u64 = 4 * 1024;
/// See [`SEND_BUDGET_MIN`].
pub const SEND_BUDGET_MAX: u64 = 256 * 1024;
/// The longest payload a frame can announce, RFC 6455 §5.2: the most significant bit must be 0.
pub const FRAME_PAYLOAD_MAX: u64 = i64::MAX as u64;

/// APIs that may have metric series of their own; further ones share the label `_other`.
pub const METRIC_APIS_MAX: usize = 10_000;
/// Listeners that may have metric series of their own during a process's life.
pub const LISTENER_SERIES_MAX: usize = 1024;
/// Upstreams that may have metric series of their own during a process's life.
pub const UPSTREAM_SERIES_MAX: usize = 1024;
/// Lines of the session log that wait for the log thread; what comes on top is dropped and counted.
pub const LOG_LINES_MAX: usize = 16 * 1024;
/// Bytes of the redacted request target in a session's record.
pub const LOG_TARGET_BYTES_MAX: usize = 2 * 1024;
/// Bytes of any other text of a peer in a session's record.
pub const LOG_TEXT_BYTES_MAX: usize = 256;
/// Bytes of what the session log says of a refusal beyond its word.
pub const LOG_DETAIL_BYTES_MAX: usize = 1024;
/// Combinations of listener, API, version, upstream and endpoint that a worker keeps for the records of its sessions.
pub const LOG_NAMES_MAX: usize = 4096;
/// Names in the resolver's cache.
pub const RESOLVER_NAMES_MAX: usize = 10_000;
/// Names that are being asked for at one time.
pub const RESOLVER_QUESTIONS_MAX: usize = 1024;
/// Addresses that are kept of one name.
pub const RESOLVER_ADDRESSES_MAX: usize = 64;
/// Connections to each door of the admin API at one time.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;
/// Bytes of a request body of the admin API; an API with all that it may have is smaller.
pub const ADMIN_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Nesting of such a body; the model needs 9.
pub const ADMIN_BODY_DEPTH_MAX: usize = 32;
/// Bytes of the body of a batch of changes of the admin API: room for as many keys as one batch may have.
pub const ADMIN_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Connections to the operator listener at one time.
pub const OPERATOR_CONNECTIONS_MAX: usize = 64;

const _: () = assert!(REVOKED_RESERVE < REVOKED_MAX);
const _: () = assert!(GRANT_ACCESS_TOKENS_MAX < GRANT_REFRESHES_MAX);
const _: () = assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
const _: () = assert!(8 * TOKEN_BYTES_MAX < VERIFIED_TOKENS_BYTES_MAX);
const _: () = assert!(PEM_BYTES_MAX <= ENVELOPE_BYTES_MAX / 2);
const _: () = assert!(SMALL_ENVELOPE_BYTES_MAX <= ENVELOPE_BYTES_MAX);
const _: () = assert!(METHOD_BYTES_MAX + TARGET_BYTES_MAX < HEAD_BYTES_MAX);
