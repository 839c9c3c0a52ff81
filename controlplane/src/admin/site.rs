//! What a web page in somebody's browser could send here, and why it is not answered.
//!
//! A foreign `Host` (DNS rebinding), a foreign `Origin`, and what the browser itself calls cross-site. Who may do what is
//! decided after this.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};

use super::problem::{Fault, Problem};

/// The names under which the admin API may be called.
#[derive(Debug, Clone, Default)]
pub struct Site {
    names: Vec<String>,
    scheme: &'static str,
}

impl Site {
    /// Called by these names, beside addresses and `localhost`.
    pub fn new(names: Vec<String>, is_secure: bool) -> Self {
        Self { names, scheme: if is_secure { "https" } else { "http" } }
    }

    /// Whether a request is meant for us, and by no page of another site.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let foreign = |detail: &str| Err(Problem::new(Fault::ForeignSite, detail));
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(Ok(host)), None) = (hosts.next().map(|host| host.to_str()), hosts.next()) else {
            return Err(Problem::new(Fault::BadRequest, "one Host header is needed"));
        };
        if !self.knows(host) || !uri.authority().is_none_or(|authority| self.knows(authority.as_str())) {
            return foreign("this host name is not known here; call an address, localhost, or a name of --admin-host");
        }
        let same = |origin: &str| {
            origin
                .split_once("://")
                .is_some_and(|(scheme, rest)| scheme == self.scheme && rest.eq_ignore_ascii_case(host))
        };
        if !headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(same)) {
            return foreign("requests of other origins are not answered");
        }
        let ours = |site: &str| matches!(site, "same-origin" | "none");
        if !headers.get_all("sec-fetch-site").iter().all(|site| site.to_str().is_ok_and(ours)) {
            return foreign("requests of other sites are not answered");
        }
        Ok(())
    }

    /// Names that nobody else's DNS can point here.
    fn knows(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let unbracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let is = |known: &str| match known.strip_prefix("*.") {
            Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => !known.is_empty() && name.eq_ignore_ascii_case(known),
        };
        unbracketed.parse::<IpAddr>().is_ok() || is("localhost") || self.names.iter().any(|known| is(known))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn verdict(site: &Site, fields: &[(&str, &str)]) -> Option<Fault> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        site.check(&Uri::from_static("/api/v1/keys"), &headers).err().map(|problem| problem.fault)
    }

    #[test]
    fn only_our_own_names_and_our_own_pages_are_answered() {
        let site = Site::new(vec!["admin.example.com".into(), "*.internal".into()], true);
        let own = [("host", "admin.example.com:9903")];
        for host in ["127.0.0.1:9903", "[::1]:9903", "localhost", "ADMIN.example.com", "a.internal"] {
            assert_eq!(verdict(&site, &[("host", host)]), None, "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "admin.example.com.evil.example", "internal", "a.b.internal"]
        {
            assert_eq!(verdict(&site, &[("host", host)]), Some(Fault::ForeignSite), "{host}");
        }
        assert_eq!(verdict(&site, &[]), Some(Fault::BadRequest));
        assert_eq!(verdict(&site, &[own[0], own[0]]), Some(Fault::BadRequest));
        assert_eq!(verdict(&site, &[own[0], ("origin", "https://admin.example.com:9903")]), None);
        for origin in ["null", "http://admin.example.com:9903", "https://admin.example.com", "https://evil.example"] {
            assert_eq!(verdict(&site, &[own[0], ("origin", origin)]), Some(Fault::ForeignSite), "{origin}");
        }
        assert_eq!(verdict(&site, &[own[0], ("sec-fetch-site", "same-origin")]), None);
        for fetch in ["cross-site", "same-site"] {
            assert_eq!(verdict(&site, &[own[0], ("sec-fetch-site", fetch)]), Some(Fault::ForeignSite), "{fetch}");
        }
    }
}
