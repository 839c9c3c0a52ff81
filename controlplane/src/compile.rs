//! From a file to a [`Snapshot`]: the source and the files that it names, read and checked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use proto::snapshot::{
    Api, Authentication, Config, Digest, Issuer, OWN_ISSUER, Problem, Section, SectionName, Snapshot,
};

use crate::catalogue::Declared;
use crate::material::{self, Known};
use crate::source::{self, Diagnostic, Lookup};
use crate::tokens::{self, Fetch, KeySets};

/// Clients that a warning names; who has these right knows what to do with the others.
const UNBOUND_TOLD_MAX: usize = 20;

/// What came of a file.
#[derive(Debug)]
pub struct Compiled {
    /// Every file that was read or should have been, the main file first.
    pub files: Vec<PathBuf>,
    /// Every directory in which a change may change the configuration.
    pub directories: BTreeSet<PathBuf>,
    /// The snapshot, or everything that is wrong.
    pub outcome: Result<Snapshot, Vec<Diagnostic>>,
    /// What is declared, where there is a snapshot of it.
    pub declared: Option<Arc<Declared>>,
    /// What is no error, and should be looked after.
    pub warnings: Vec<Diagnostic>,
    /// When some of what is wrong will be right by itself.
    pub again: Option<SystemTime>,
    /// What it says about tokens.
    pub tokens: Tokens,
}

/// What a configuration says about tokens, beside what data planes are told.
#[derive(Debug, Default)]
pub struct Tokens {
    /// What the token endpoint works by, if there is one.
    pub terms: Option<tokens::Terms>,
    /// Sets of keys that are fetched.
    pub fetches: Vec<Fetch>,
}

/// Reads the file, what it includes, and the certificates and keys that they name, and checks all of it. `known` is what
/// has been published before, `keys` what of issuers' keys stands in no file.
pub fn compile(file: &Path, environment: Lookup<'_>, known: &Known, keys: &KeySets, now: SystemTime) -> Compiled {
    let source::Reading { mut files, mut directories, outcome } = source::read(file, environment);
    let document = match outcome {
        Ok(document) => document,
        Err(diagnostics) => {
            let (outcome, warnings, tokens) = (Err(diagnostics), Vec::new(), Tokens::default());
            return Compiled { files, directories, outcome, declared: None, warnings, again: None, tokens };
        }
    };
    let mut material = material::load(&document, known, keys, now);
    files.extend(material.files);
    directories.extend(material.directories);
    material.warnings.extend(unbound(&material.config));
    let warnings = document.diagnose(&material.warnings);
    let terms = tokens::Terms::of(&material.config);
    if let Some(Err(fault)) = terms.as_ref().filter(|_| material.problems.is_empty()).map(tokens::Terms::tls) {
        let message = format!("TLS cannot be spoken at the token endpoint: {fault}");
        material.problems.push(Problem { place: "/token_endpoint/tls".into(), message });
    }
    let tokens = Tokens { terms, fetches: material.fetches };
    let own = keys.own_issuer(&material.config);
    let outcome = check(&material.config, material.problems).map(|snapshot| with_issuer(snapshot, own));
    let outcome = outcome.map_err(|problems| document.diagnose(&problems));
    let declared = outcome.is_ok().then(|| Arc::new(Declared::new(document, material.config)));
    Compiled { files, directories, outcome, declared, warnings, again: material.again, tokens }
}

fn check(config: &Config, mut problems: Vec<Problem>) -> Result<Snapshot, Vec<Problem>> {
    match Snapshot::check(config.clone()) {
        Ok(snapshot) if problems.is_empty() => return Ok(snapshot),
        Ok(_) => {}
        Err(further) => problems.extend(further),
    }
    Err(problems)
}

/// Clients for whom more than one issuer may speak, because nothing says which one does.
fn unbound(config: &Config) -> Vec<Problem> {
    let of_others = |api: &&Api| {
        let Authentication { accept, issuers, .. } = &api.authentication;
        let (accepted, all) = (issuers.iter().filter(|name| *name != OWN_ISSUER).count(), config.issuers.len());
        accept.iter().any(|form| form.has_tokens()) && if issuers.is_empty() { all > 1 } else { accepted > 1 }
    };
    let wide: Vec<&Api> = config.apis.iter().filter(of_others).collect();
    let anybodys = wide.iter().find(|api| !api.authentication.require_subscription).map(|api| api.label());
    let labels: HashSet<String> = wide.iter().map(|api| api.label()).collect();
    let subscribed = config.subscriptions.iter().filter(|one| labels.contains(&one.api));
    let subscribed: HashMap<&str, &str> = subscribed.map(|one| (one.application.as_str(), one.api.as_str())).collect();
    let applications = config.applications.iter().enumerate().filter_map(|(at, application)| {
        let api = anybodys.as_deref().or_else(|| subscribed.get(application.name.as_str()).copied())?;
        Some((at, application, api))
    });
    let told = applications.flat_map(|(at, application, api)| {
        let clients = application.clients.iter().enumerate();
        let clients = clients.filter(|(_, client)| client.issuer.is_empty() && client.secret.is_none());
        clients.map(move |(index, client)| Problem {
            place: format!("/applications/{at}/clients/{index}"),
            message: format!(
                "the API {api:?} accepts tokens of several issuers, each of which may speak for the client {:?}; say under \
                 issuer whose tokens it has",
                client.id
            ),
        })
    });
    told.take(UNBOUND_TOLD_MAX).collect()
}

/// The same with the gateway itself among the issuers: nobody else may have its name, so it comes after the check.
fn with_issuer(snapshot: Snapshot, own: Option<Issuer>) -> Snapshot {
    let Some(own) = own else { return snapshot };
    let mut issuers = snapshot.issuers().to_vec();
    issuers.push(own);
    with_issuers(&snapshot, issuers)
}

/// The same with these issuers, which have been checked.
pub(crate) fn with_issuers(snapshot: &Snapshot, mut issuers: Vec<Issuer>) -> Snapshot {
    issuers.sort_by(|one, other| one.name.cmp(&other.name));
    let section = Section::Issuers(issuers);
    let change = Some((Digest::of(&section.encode()), Arc::new(section)));
    snapshot.with([(SectionName::Issuers, change)]).expect("issuers in their order belong in their section")
}

/// The environment of this process, for [`compile`].
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
