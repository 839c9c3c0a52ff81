//! The corridor: one connection's journey through the rooms, in their order, on one screen.
//!
//! Rooms do not call rooms. Each step returns the evidence that the next one asks for; whatever stops a journey is
//! answered in one place, and a connection that got through belongs to the relay.

use std::rc::Rc;

use crate::admit;
use crate::authenticate;
use crate::connect;
use crate::handshake::{self, Arrival, Downstream, Stop};
use crate::policy;
use crate::relay::{self, Established};
use crate::route;
use crate::shard::{HandshakeCount, Shard};

/// Takes a connection from accept to an established session, or to its refusal.
pub async fn connection(shard: Rc<Shard>, arrival: Arrival) {
    let _under_way = HandshakeCount::take(&shard);
    let mut downstream = Downstream::new(arrival);
    match journey(&shard, &mut downstream).await {
        Ok(established) => relay::hand_over(&shard, downstream, established),
        Err(stop) => handshake::dismiss(&shard, downstream, stop).await,
    }
}

async fn journey(shard: &Rc<Shard>, downstream: &mut Downstream) -> Result<Established, Stop> {
    handshake::greet(shard, downstream).await?;
    let request = handshake::read(shard, downstream).await?;
    let tables = admit::tables(shard)?;
    let place = route::find(&tables, &request.wanted(downstream, &request.view().route_path()))?;
    downstream.seen.place(&place);
    admit::pace(shard, &tables, &place.api, downstream)?;
    let (identity, mut onward) = authenticate::client(shard, &tables, &place, &request, downstream).await?;
    downstream.seen.identity(&identity);
    let mut route = admit::environment(place, &request, &identity)?;
    let permit = admit::connection(shard, &tables, &route, &request, identity, downstream)?;
    if permit.may_drop() && !request.upgrade.offer.deflate.is_empty() {
        onward.give_up_contexts();
    }
    policy::on_upgrade(shard, &tables, &mut route, &request, permit.identity(), &mut onward, downstream).await?;
    downstream.seen.route(&route);
    let upstream = connect::open(shard, &tables, &route, &request, &onward, downstream).await?;
    handshake::accept(&tables, downstream, &request, upstream.agreed()).await?;
    Ok(Established { tables, route, permit, upstream, request })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// What every connection costs while its handshake is under way, and what is moved when its task begins.
    #[test]
    fn the_task_of_a_handshake_stays_small() {
        let bytes = bytes_of(connection);
        assert!(bytes <= 4672, "{bytes}");
    }
}
