//! The on-upgrade policy of an API: the operator's steps, in their order, between authentication and connecting.

use std::rc::Rc;

use crate::handshake::{Downstream, Request, Stop};
use crate::identity::Identity;
use crate::onward::Onward;
use crate::refusal::Refusal;
use crate::route::Route;
use crate::shard::Shard;
use crate::tables::Tables;

/// Takes the steps, which may lead the route elsewhere and change what travels onwards; or says why not.
pub async fn on_upgrade(
    _shard: &Rc<Shard>,
    _tables: &Tables,
    route: &mut Route,
    _request: &Request,
    _identity: &Identity,
    _onward: &mut Onward,
    _downstream: &Downstream,
) -> Result<(), Stop> {
    if route.api.api.on_upgrade.is_empty() {
        return Ok(());
    }
    Err(Refusal::PolicyUnavailable.into())
}
