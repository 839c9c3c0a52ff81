//! Where a credential stands in a request: finding the first that an API accepts, and taking all of them out of what
//! travels onwards.
//!
//! A plain function of the request head. What it finds is only read as far as its form goes; whether it is any good is
//! asked elsewhere. Of what stands in its place twice, nobody can say which was meant: that is malformed.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proto::http::{RequestView, list, percent};
use proto::limits::TOKEN_BYTES_MAX;
use proto::snapshot::{Authentication, CredentialForm};

use crate::onward::Onward;

/// The query parameter of RFC 6750 §2.3.
const ACCESS_TOKEN: &str = "access_token";
/// Where personal access tokens stand.
pub const PRIVATE_TOKEN: &str = "PRIVATE-TOKEN";
const PRIVATE_COOKIE: &str = "personalAccessToken";
/// Subprotocols that carry a token: as it is, and, for tokens that are no token of HTTP, in base64url.
const CARRIER: &str = "bearer.";
const CARRIER_BASE64: &str = "base64url.bearer.authorization.k8s.io.";

/// A credential that a request presents. Has no `Debug`, because it would show it.
pub enum Presented<'r> {
    /// A bearer token.
    Token(Cow<'r, str>),
    /// An API key.
    Key(Cow<'r, str>),
    /// A name and a password.
    Password(Login),
    /// The certificate of the connection.
    Certificate,
}

/// A name and a password, RFC 7617.
pub struct Login {
    /// The user's name.
    pub user: Box<str>,
    /// The password.
    pub password: Box<str>,
}

/// It is there, but has not its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// What was found: in which form, and what, if it is sound.
pub type Found<'r> = (CredentialForm, Result<Presented<'r>, Malformed>);

/// What of a request may hold a credential.
#[derive(Clone, Copy)]
pub struct Places<'r> {
    /// Head, to read headers and the query of.
    pub view: RequestView<'r>,
    /// The subprotocols that are offered.
    pub subprotocols: &'r [String],
    /// Whether the client has shown a certificate.
    pub has_certificate: bool,
    /// What the API accepts, and under which names.
    pub asked: &'r Authentication,
}

impl<'r> Places<'r> {
    /// The first credential that is there, in the order of the forms, of those that the API accepts.
    pub fn find(&self) -> Option<Found<'r>> {
        let accepted = CredentialForm::ALL.into_iter().filter(|form| self.accepts(*form));
        accepted.into_iter().find_map(|form| self.look(form).transpose().map(|credential| (form, credential)))
    }

    /// Takes credentials of every form that the API accepts out of what travels, and the token of the query in any case;
    /// or leaves them, where the operator wants them passed on: then a token that stood where it cannot stay travels in the
    /// header.
    pub fn strip(&self, found: Option<&Found<'r>>, onward: &mut Onward) {
        self.strip_query(onward);
        for carrier in self.carriers() {
            onward.add_carrier(carrier);
        }
        if self.asked.forward_credentials {
            self.move_to_header(found, onward);
            return;
        }
        let named = [
            (&*self.asked.authorization_header, self.accepts(CredentialForm::Bearer) || self.accepts_basic()),
            (&*self.asked.api_key_name, self.accepts(CredentialForm::ApiKey)),
            (PRIVATE_TOKEN, self.accepts(CredentialForm::PersonalAccessToken)),
        ];
        for (name, _) in named.iter().filter(|(name, accepted)| *accepted && self.view.header(name).is_some()) {
            onward.withhold(name);
        }
        self.strip_cookies(onward);
    }

    fn accepts(&self, form: CredentialForm) -> bool {
        self.asked.accept.contains(&form)
    }

    fn accepts_basic(&self) -> bool {
        self.accepts(CredentialForm::Basic)
    }

    fn look(&self, form: CredentialForm) -> Result<Option<Presented<'r>>, Malformed> {
        match form {
            CredentialForm::Bearer => self.bearer(),
            CredentialForm::QueryToken => Ok(self.parameter(ACCESS_TOKEN)?.map(Presented::Token)),
            CredentialForm::ApiKey => self.api_key(),
            CredentialForm::Subprotocol => self.subprotocol(),
            CredentialForm::Basic => self.basic(),
            CredentialForm::Cookie => Ok(self.cookie(&self.asked.cookie_name)?.map(Presented::Token)),
            CredentialForm::PersonalAccessToken => self.personal_access_token(),
            CredentialForm::ClientCertificate => Ok(self.has_certificate.then_some(Presented::Certificate)),
        }
    }

    fn bearer(&self) -> Result<Option<Presented<'r>>, Malformed> {
        match self.authorization()? {
            None => Ok(None),
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                sound(token.into()).map(Presented::Token).map(Some)
            }
            // Somebody else's turn.
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("basic") && self.accepts_basic() => Ok(None),
            Some(_) => Err(Malformed),
        }
    }

    fn basic(&self) -> Result<Option<Presented<'r>>, Malformed> {
        match self.authorization()? {
            None => Ok(None),
            Some((scheme, login)) if scheme.eq_ignore_ascii_case("basic") => {
                login_of(login).map(Presented::Password).map(Some)
            }
            Some(_) => Err(Malformed),
        }
    }

    /// Scheme and credential of the authorization header, RFC 9110 §11.4.
    fn authorization(&self) -> Result<Option<(&'r str, &'r str)>, Malformed> {
        let Some(value) = self.header(&self.asked.authorization_header)? else { return Ok(None) };
        let (scheme, credential) = value.split_once(' ').ok_or(Malformed)?;
        Ok(Some((scheme, credential.trim_start_matches(' '))))
    }

    fn api_key(&self) -> Result<Option<Presented<'r>>, Malformed> {
        let name = &self.asked.api_key_name;
        match self.header(name)? {
            Some(key) => sound(key.into()).map(Presented::Key).map(Some),
            None => Ok(self.parameter(name)?.map(Presented::Key)),
        }
    }

    fn personal_access_token(&self) -> Result<Option<Presented<'r>>, Malformed> {
        let token = match self.header(PRIVATE_TOKEN)? {
            Some(token) => Some(sound(token.into())?),
            None => self.cookie(PRIVATE_COOKIE)?,
        };
        let kind = |token: Cow<'r, str>| {
            if super::jws::is_jwt(&token) { Presented::Token(token) } else { Presented::Key(token) }
        };
        Ok(token.map(kind))
    }

    fn carriers(&self) -> impl Iterator<Item = &'r str> + use<'r> {
        let accepted = self.accepts(CredentialForm::Subprotocol);
        let carries = |name: &&str| name.starts_with(CARRIER) || name.starts_with(CARRIER_BASE64);
        self.subprotocols.iter().map(String::as_str).filter(carries).take_while(move |_| accepted)
    }

    fn subprotocol(&self) -> Result<Option<Presented<'r>>, Malformed> {
        let mut carriers = self.carriers();
        let Some(carrier) = carriers.next() else { return Ok(None) };
        if carriers.next().is_some() {
            return Err(Malformed);
        }
        let token = match carrier.strip_prefix(CARRIER_BASE64) {
            Some(encoded) => {
                let octets = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Malformed)?;
                String::from_utf8(octets).map_err(|_| Malformed)?.into()
            }
            None => carrier.strip_prefix(CARRIER).ok_or(Malformed)?.into(),
        };
        sound(token).map(Presented::Token).map(Some)
    }

    /// The value of a header that stands once.
    fn header(&self, name: &str) -> Result<Option<&'r str>, Malformed> {
        let value = self.view.fields().only(name).map_err(|_| Malformed)?;
        value.map(|value| std::str::from_utf8(value).map_err(|_| Malformed)).transpose()
    }

    /// The value of a query parameter that stands once.
    fn parameter(&self, name: &str) -> Result<Option<Cow<'r, str>>, Malformed> {
        let mut values = pairs(self.view.query()).filter(|pair| is_named(pair, name));
        let Some(pair) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Malformed);
        }
        let value = pair.split_once('=').map_or("", |(_, value)| value);
        sound(percent_decoded(value).ok_or(Malformed)?).map(Some)
    }

    /// The value of a cookie that stands once, RFC 6265 §4.2; which of two a client means is unspecified there.
    fn cookie(&self, name: &str) -> Result<Option<Cow<'r, str>>, Malformed> {
        let mut found = None;
        for header in self.view.header_values("cookie") {
            for (own, value) in cookies(header).filter_map(|pair| split_at_equals(pair)) {
                if own == name.as_bytes() && found.replace(value).is_some() {
                    return Err(Malformed);
                }
            }
        }
        let Some(value) = found else { return Ok(None) };
        let value = std::str::from_utf8(value).map_err(|_| Malformed)?;
        let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
        sound(bare.into()).map(Some)
    }

    /// Without tokens and keys; as it was where there is none.
    fn strip_query(&self, onward: &mut Onward) {
        let key = self.accepts(CredentialForm::ApiKey).then_some(&*self.asked.api_key_name);
        let is_secret = |pair: &&str| is_named(pair, ACCESS_TOKEN) || key.is_some_and(|name| is_named(pair, name));
        if pairs(self.view.query()).any(|pair| is_secret(&pair)) {
            let rest: Vec<&str> = pairs(self.view.query()).filter(|pair| !is_secret(pair)).collect();
            onward.set_query(rest.join("&"));
        }
    }

    fn strip_cookies(&self, onward: &mut Onward) {
        let taken = [
            (&*self.asked.cookie_name, self.accepts(CredentialForm::Cookie)),
            (PRIVATE_COOKIE, self.accepts(CredentialForm::PersonalAccessToken)),
        ];
        let is_taken = |pair: &[u8]| {
            let name = split_at_equals(pair).map_or(pair, |(name, _)| name);
            taken.iter().any(|(taken, accepted)| *accepted && name == taken.as_bytes())
        };
        let all = || self.view.header_values("cookie").flat_map(cookies);
        if !all().any(is_taken) {
            return;
        }
        let rest = all().filter(|pair| !is_taken(pair)).collect::<Vec<_>>().join(&b"; "[..]);
        match String::from_utf8(rest) {
            Ok(rest) if !rest.is_empty() => onward.set("Cookie", rest),
            // What cannot be written again without a change does not travel.
            _ => onward.withhold("cookie"),
        }
    }

    fn move_to_header(&self, found: Option<&Found<'r>>, onward: &mut Onward) {
        match found {
            Some((CredentialForm::QueryToken | CredentialForm::Subprotocol, Ok(Presented::Token(token)))) => {
                onward.set(&self.asked.authorization_header, format!("Bearer {token}"));
            }
            Some((CredentialForm::ApiKey, Ok(Presented::Key(key))))
                if self.view.header(&self.asked.api_key_name).is_none() =>
            {
                onward.set(&self.asked.api_key_name, key.clone().into_owned());
            }
            _ => {}
        }
    }
}

/// A token or key: visible ASCII characters, at least one, and not too many.
fn sound(token: Cow<'_, str>) -> Result<Cow<'_, str>, Malformed> {
    let is_sound =
        !token.is_empty() && token.len() <= TOKEN_BYTES_MAX && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_sound { Ok(token) } else { Err(Malformed) }
}

/// RFC 7617 §2: a name without a colon, a colon, a password; neither has control characters.
fn login_of(encoded: &str) -> Result<Login, Malformed> {
    if encoded.len() > TOKEN_BYTES_MAX {
        return Err(Malformed);
    }
    let text = STANDARD.decode(encoded).ok().and_then(|octets| String::from_utf8(octets).ok()).ok_or(Malformed)?;
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() && !text.contains(char::is_control) => {
            Ok(Login { user: user.into(), password: password.into() })
        }
        _ => Err(Malformed),
    }
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = &str> {
    query.into_iter().flat_map(|query| query.split('&'))
}

fn is_named(pair: &str, name: &str) -> bool {
    let own = pair.split_once('=').map_or(pair, |(name, _)| name);
    own == name || own.contains('%') && percent_decoded(own).is_some_and(|own| own == name)
}

/// A plus sign stays one: it is a character of tokens (RFC 6750 §2.1), and a blank is not.
fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    match percent::decode(text.as_bytes())? {
        Cow::Borrowed(_) => Some(text.into()),
        Cow::Owned(octets) => String::from_utf8(octets).ok().map(Cow::Owned),
    }
}

fn cookies(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';').map(list::trim).filter(|pair| !pair.is_empty())
}

fn split_at_equals(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((list::trim(&pair[..at]), list::trim(&pair[at + 1..])))
}
