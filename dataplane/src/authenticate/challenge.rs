//! What is said of a credential that grants nothing: to the client in `WWW-Authenticate` (RFC 9110 §11.6.1, RFC 6750
//! §3, RFC 7617 §2), and to the operator in the log.
//!
//! Neither says anything of the credential itself, and the client is told less than the operator.

use std::sync::Arc;

use proto::snapshot::CredentialForm;

use crate::identity::Fault;
use crate::refusal::Refusal;
use crate::tables::ApiEntry;

/// What failed, as far as the answer depends on it.
#[derive(Debug)]
pub struct Failed {
    /// The form of the credential; none: there was none.
    pub form: Option<CredentialForm>,
    /// The scopes of the topic.
    pub scopes: Arc<[String]>,
}

/// The values of `WWW-Authenticate` for a refusal; none for one that a credential would not change.
pub fn challenges(api: &ApiEntry, refusal: Refusal, failed: Option<&Failed>) -> Vec<String> {
    let (row, asked) = (refusal.row(), &api.api.authentication);
    let is_ours = row.status == 401 || refusal == Refusal::Scope;
    if asked.is_open() || !is_ours {
        return Vec::new();
    }
    let mut challenges = Vec::new();
    if asked.accept.iter().any(|form| *form != CredentialForm::Basic) {
        let mut bearer = format!("Bearer realm=\"{}\"", api.label);
        let of_password = failed.is_some_and(|failed| failed.form == Some(CredentialForm::Basic));
        match refusal {
            Refusal::Scope => {
                bearer.push_str(", error=\"insufficient_scope\"");
                if let Some(failed) = failed {
                    bearer.push_str(&format!(", scope=\"{}\"", failed.scopes.join(" ")));
                }
            }
            Refusal::BadCredentials | Refusal::KeyType if !of_password => bearer.push_str(", error=\"invalid_token\""),
            _ => {}
        }
        challenges.push(bearer);
    }
    if asked.accept.contains(&CredentialForm::Basic) && row.status == 401 {
        challenges.push(format!("Basic realm=\"{}\", charset=\"UTF-8\"", api.label));
    }
    challenges
}

/// For the log: the fault's word, and what it means.
pub fn for_the_log(fault: Fault) -> String {
    let sentence = match fault {
        Fault::Absent => "there is none of the forms that the API accepts",
        Fault::Malformed => "it has not the form that it should have, or stands there twice",
        Fault::Expired => "it has run out",
        Fault::NotYetValid => "it is not good yet, or its issuer's clock is ahead",
        Fault::Audience => "it is for somebody else",
        Fault::Issuer => "its issuer is not known, not accepted by the API, or not that of its client",
        Fault::Signature => "its signature is wrong",
        Fault::Algorithm => "it is not signed, or in a way that its key is not for",
        Fault::UnknownKeyId => "the key that it names is not among its issuer's, or it names none of several",
        Fault::Unknown => "no such key, user, client or token is known",
        Fault::Password => "the password is wrong",
        Fault::Disabled => "it, its application or its user is switched off",
        Fault::Revoked => "it was revoked",
        Fault::Address => "the key may not be used from this address",
        Fault::Referrer => "the key may not be used by this page",
        Fault::Scope => "it has none of the topic's scopes",
        Fault::KeyType => "the API has no endpoint for its key type",
        Fault::NotSubscribed => "its application has not subscribed to the API",
        Fault::Unavailable => "it could not be found out whether it is good",
    };
    format!("{}: {sentence}", fault.word())
}
