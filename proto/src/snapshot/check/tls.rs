//! Certificates, authorities, and what listeners and upstreams say of TLS.
//!
//! Names, lists and sizes; whether the bytes are certificates, and whose, is found out by those who use them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

use super::api::words;
use super::entry::unique_name;
use super::words::server_name_problem;
use super::{Names, Places, Problems, Spot};
use crate::limits::{
    AUTHORITIES_BYTES_MAX, CERTIFICATES_MAX, CHAIN_BYTES_MAX, KEY_BYTES_MAX, OCSP_RESPONSE_BYTES_MAX, PEM_BYTES_MAX,
    PINS_MAX, REVOCATION_BYTES_MAX, REVOCATIONS_MAX,
};
use crate::snapshot::{
    Authorities, Certificate, CipherSuite, ClientCertificateMode, EndpointUrl, ListenerTls, Pem, Place, TlsVersion,
    Upstream, UpstreamTls,
};

/// Certificates and authorities, each by itself and among its kind.
pub(super) fn material(certificates: &[&Certificate], authorities: &[&Authorities], problems: &mut Problems) {
    let mut total = 0;
    let mut names = HashMap::with_capacity(certificates.len());
    for (at, certificate) in certificates.iter().enumerate() {
        let spot = problems.spot("certificates", at, &certificate.name, "");
        unique_name(&mut names, "certificate", &certificate.name, spot, problems);
        total += pem(&certificate.chain, CHAIN_BYTES_MAX, format_args!("{spot}/chain"), problems);
        total += pem(&certificate.key, KEY_BYTES_MAX, format_args!("{spot}/key"), problems);
        if let Some(response) = &certificate.ocsp_response {
            total += pem(response, OCSP_RESPONSE_BYTES_MAX, format_args!("{spot}/ocsp_response"), problems);
        }
    }
    let mut names = HashMap::with_capacity(authorities.len());
    for (at, one) in authorities.iter().enumerate() {
        let spot = problems.spot("authorities", at, &one.name, "");
        unique_name(&mut names, "group of authorities", &one.name, spot, problems);
        total += pem(&one.certificates, AUTHORITIES_BYTES_MAX, format_args!("{spot}/certificates"), problems);
        let place = format_args!("{spot}/revocations");
        problems.ceiling(place, "revocation lists", one.revocations.len(), REVOCATIONS_MAX);
        for (index, list) in one.revocations.iter().enumerate() {
            total += pem(list, REVOCATION_BYTES_MAX, format_args!("{place}/{index}"), problems);
        }
    }
    if total > PEM_BYTES_MAX {
        problems.add("", format!("certificates and revocation lists have {total} bytes; {PEM_BYTES_MAX} are allowed"));
    }
}

/// One content, which a push has within itself; its length.
fn pem(pem: &Pem, ceiling: usize, place: impl fmt::Display, problems: &mut Problems) -> usize {
    match pem {
        Pem::File(_) => {
            if problems.places == Places::Names {
                problems.add(place, "this is a path; files are read by the control plane, which sends their content");
            }
            0
        }
        Pem::Text(text) if !text.lines().any(|line| line.trim_start().starts_with("-----BEGIN ")) => {
            problems.add(place, "this is no PEM text: no line begins with -----BEGIN");
            0
        }
        Pem::Text(text) => {
            if text.len() > ceiling {
                problems.add(place, format!("this content has {} bytes; {ceiling} are allowed", text.len()));
            }
            text.len()
        }
    }
}

/// What a listener says.
pub(super) fn listener(tls: &ListenerTls, names: &Names<'_>, spot: Spot<'_>, problems: &mut Problems) {
    spoken_with(tls, names, spot, problems);
}

/// How TLS is spoken with clients, on a listener or at the token endpoint.
pub(super) fn spoken_with(
    tls: &ListenerTls,
    names: &Names<'_>,
    spot: impl fmt::Display + Copy,
    problems: &mut Problems,
) {
    let place = format_args!("{spot}/tls/certificates");
    if tls.certificates.is_empty() {
        problems.add(place, "a listener that speaks TLS needs at least one certificate; name one of certificates");
    }
    problems.ceiling(place, "certificates", tls.certificates.len(), CERTIFICATES_MAX);
    words(&tls.certificates, place, |name| unknown_certificate(name, names), problems);
    spoken(&tls.versions, &tls.cipher_suites, spot, problems);

    let place = format_args!("{spot}/tls/client_certificates/authorities");
    match (&tls.client_certificates.authorities, tls.client_certificates.mode) {
        (Some(name), _) => problems.add_if(place, unknown_authorities(name, names)),
        (None, ClientCertificateMode::Off) => {}
        (None, ClientCertificateMode::Optional | ClientCertificateMode::Required) => {
            problems.add(place, "who may have signed clients' certificates is not said; name one of authorities");
        }
    }
}

/// What an upstream says.
pub(super) fn upstream(upstream: &Upstream, names: &Names<'_>, spot: Spot<'_>, problems: &mut Problems) {
    let tls = &upstream.tls;
    let is_secure = upstream.endpoints.iter().any(|endpoint| endpoint.url.secure);
    if *tls != UpstreamTls::default() && !upstream.endpoints.is_empty() && !is_secure {
        let message = "no endpoint of this upstream speaks TLS; write wss:// in its URL, or leave tls out";
        problems.add(format_args!("{spot}/tls"), message);
    }
    for (at, endpoint) in upstream.endpoints.iter().enumerate() {
        if endpoint.url.secure {
            let fault = url_problem(&endpoint.url, tls.server_name.as_deref());
            problems.add_if(format_args!("{spot}/endpoints/{at}/url"), fault);
        } else if !endpoint.verify_certificate {
            let message = "this endpoint speaks no TLS and shows no certificate; write wss:// in its URL, or leave \
                verify_certificate out";
            problems.add(format_args!("{spot}/endpoints/{at}/verify_certificate"), message);
        }
    }
    let fault = tls.authorities.as_ref().and_then(|name| unknown_authorities(name, names));
    problems.add_if(format_args!("{spot}/tls/authorities"), fault);
    let fault = tls.certificate.as_ref().and_then(|name| unknown_certificate(name, names));
    problems.add_if(format_args!("{spot}/tls/certificate"), fault);
    let fault = tls.server_name.as_ref().and_then(|name| server_name_problem(name));
    problems.add_if(format_args!("{spot}/tls/server_name"), fault);
    problems.ceiling(format_args!("{spot}/tls/pins"), "pins", tls.pins.len(), PINS_MAX);
    each_once(&tls.pins, format_args!("{spot}/tls/pins"), problems);
    spoken(&tls.versions, &tls.cipher_suites, spot, problems);
}

/// A `wss://` URL whose host no certificate can cover needs another name to ask for.
pub(super) fn url_problem(url: &EndpointUrl, server_name: Option<&str>) -> Option<String> {
    match &url.place {
        Place::Tcp { host, .. } if url.secure && server_name.is_none() => {
            server_name_problem(host).map(|fault| format!("{fault}; tls.server_name of an upstream can name another"))
        }
        _ => None,
    }
}

/// Versions and suites that go together: every suite has its version, and every version that is named has a suite.
fn spoken(versions: &[TlsVersion], suites: &[CipherSuite], spot: impl fmt::Display, problems: &mut Problems) {
    each_once(versions, format_args!("{spot}/tls/versions"), problems);
    each_once(suites, format_args!("{spot}/tls/cipher_suites"), problems);
    for (at, suite) in suites.iter().enumerate() {
        let version = suite.version();
        if !versions.is_empty() && !versions.contains(&version) {
            let message =
                format!("this is a suite of {version}, which is not among versions; add it, or leave one out");
            problems.add(format_args!("{spot}/tls/cipher_suites/{at}"), message);
        }
    }
    for (at, version) in versions.iter().enumerate() {
        if !suites.is_empty() && suites.iter().all(|suite| suite.version() != *version) {
            let message = format!("none of cipher_suites is one of {version}; add one, or leave the version out");
            problems.add(format_args!("{spot}/tls/versions/{at}"), message);
        }
    }
}

fn each_once<T: Eq + Hash>(items: &[T], place: impl fmt::Display, problems: &mut Problems) {
    let mut seen = HashSet::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        if !seen.insert(item) {
            problems.add(format_args!("{place}/{at}"), "this stands here twice; leave one out");
        }
    }
}

fn unknown_certificate(name: &str, names: &Names<'_>) -> Option<String> {
    let missing = !names.certificates.contains(name);
    missing.then(|| format!("there is no certificate {name:?}; correct the name, or add it under certificates"))
}

fn unknown_authorities(name: &str, names: &Names<'_>) -> Option<String> {
    let missing = !names.authorities.contains(name);
    missing.then(|| format!("there are no authorities {name:?}; correct the name, or add them under authorities"))
}
