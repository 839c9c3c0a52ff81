//! The catalogue as the admin API asks it: what goes wrong there becomes a problem document here.
//!
//! Nothing is decided here.

use std::time::Duration;

use proto::errors::with_sources;

use super::objects::{self, Filter, Kind, Noun, Object, Origin};
use super::problem::{Fault, Problem};
use super::routes::Desk;
use crate::catalogue::{Change, ChangeError, Changed, Page};
use crate::store::StoreError;

/// A page of objects.
pub async fn list(
    desk: &Desk,
    kind: Kind,
    filter: Filter,
    after: Option<String>,
    limit: usize,
) -> Result<Page, Problem> {
    desk.office.list(kind, filter, after, limit).await.map_err(|error| failed(&error))
}

/// An object, if there is one.
pub async fn find(desk: &Desk, kind: Kind, id: &str) -> Result<Option<Object>, Problem> {
    desk.office.find(kind, id).await.map_err(|error| failed(&error))
}

/// An object that should be there.
pub async fn one(desk: &Desk, kind: Kind, id: &str) -> Result<Object, Problem> {
    find(desk, kind, id).await?.ok_or_else(|| objects::nothing(kind.noun(), id))
}

/// Whether it is for the admin API to change.
pub fn is_ours(object: &Object) -> Result<(), Problem> {
    match &object.origin {
        // One in its place is.
        Origin::Stored | Origin::BuiltIn => Ok(()),
        Origin::Declared { file } => Err(declared(object.kind, &object.id, file)),
    }
}

/// One change, and what the nodes say to it where that is waited for.
pub async fn change(desk: &Desk, changes: Vec<Change>, wait: Option<Duration>) -> Result<Changed, Problem> {
    desk.office.change(changes, wait).await.map_err(|error| told(error, false))
}

/// Many changes; what is wrong stands at `/changes/INDEX`.
pub async fn change_many(desk: &Desk, changes: Vec<Change>, wait: Option<Duration>) -> Result<Changed, Problem> {
    let targets: Vec<(Kind, String)> = changes.iter().map(|one| (one.target().0, one.target().1.to_owned())).collect();
    let at = |kind: Kind, id: &str| targets.iter().position(|(one, name)| *one == kind && name == id);
    desk.office.change(changes, wait).await.map_err(|error| {
        let culprit = match &error {
            ChangeError::NotFound { kind, id }
            | ChangeError::Exists { kind, id }
            | ChangeError::Declared { kind, id, .. }
            | ChangeError::BuiltIn { kind, id }
            | ChangeError::Stale { kind, id, .. }
            | ChangeError::InUse { kind, id, .. } => at(*kind, id),
            ChangeError::Invalid(_) | ChangeError::Unready | ChangeError::Store(_) => None,
        };
        let mut problem = told(error, true);
        if let Some(at) = culprit {
            problem.errors.push((format!("/changes/{at}"), problem.detail.clone()));
        }
        problem
    })
}

fn declared(kind: Kind, id: &str, file: &str) -> Problem {
    let detail = format!("the {} {id:?} is declared in {file} and can only be changed there", kind.noun());
    Problem { file: Some(file.to_owned()), ..Problem::new(Fault::Declared, detail) }
}

fn told(error: ChangeError, is_many: bool) -> Problem {
    let sentence = error.to_string();
    let article = |kind: Kind| if kind.noun().starts_with(['a', 'A']) { "an" } else { "a" };
    match error {
        ChangeError::NotFound { kind, id } => objects::nothing(kind.noun(), &id),
        ChangeError::Exists { kind, id } => {
            let detail = format!("there is {} {} {id:?} already", article(kind), kind.noun());
            Problem { is_race: true, ..Problem::new(Fault::Exists, detail) }
        }
        ChangeError::Declared { kind, id, file } => declared(kind, &id, &file),
        ChangeError::BuiltIn { .. } => Problem::new(Fault::Declared, sentence),
        ChangeError::Stale { .. } => Problem { is_race: true, ..Problem::new(Fault::PreconditionFailed, sentence) },
        ChangeError::InUse { .. } => Problem::new(Fault::Conflict, sentence),
        ChangeError::Unready => Problem::new(Fault::Unavailable, sentence),
        ChangeError::Store(error) => failed(&error),
        ChangeError::Invalid(problems) => {
            // `/INDEX`, and what stands behind it in the object that is put.
            let place = |place: &str| {
                let behind = place.get(1..).and_then(|rest| rest.find('/')).map_or(place.len(), |at| at + 1);
                let (change, member) = place.split_at(behind);
                match (is_many, member.is_empty()) {
                    (false, _) => member.to_owned(),
                    (true, true) => format!("/changes{change}"),
                    (true, false) => format!("/changes{change}/put{member}"),
                }
            };
            Problem::invalid(problems.into_iter().map(|one| (place(&one.place), one.message)).collect())
        }
    }
}

fn failed(error: &StoreError) -> Problem {
    tracing::error!(error = with_sources(error), "the admin API cannot use the catalogue");
    Problem::new(Fault::Unavailable, "the catalogue's database cannot be used at present; the log says why")
}
