//! Who is it? Finds the credential that the request carries, in the order and among the forms that the API accepts, and
//! has it verified. The first that is there decides.
//!
//! What a grant is stands in [`identity`](crate::identity), whether it still stands in [`standing`](crate::standing).

use std::rc::Rc;

use crate::handshake::{Downstream, Request, Stop};
use crate::identity::{Fault, Identity};
use crate::onward::Onward;
use crate::route::Place;
use crate::shard::Shard;
use crate::tables::Tables;

/// Who the client is; and what its request says onwards no more.
pub async fn client(
    _shard: &Rc<Shard>,
    _tables: &Tables,
    place: &Place,
    _request: &Request,
    _downstream: &Downstream,
) -> Result<(Identity, Onward), Stop> {
    if place.api.api.authentication.is_open() {
        return Ok((Identity::default(), Onward::default()));
    }
    Err(Fault::Unavailable.refusal().into())
}
