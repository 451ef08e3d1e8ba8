//! Bytes both ways once a connection has gone over to another protocol (WebSocket).
//!
//! Each side may end its half while the other goes on. The tunnel counts as a request under way
//! at its replica and as an open connection of its client.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::connection::Client;
use crate::io::Watched;
use crate::network::Stream;
use crate::pool::Lease;

pub(crate) fn start(
    client_side: OnUpgrade,
    mut far: Watched<Stream>,
    lease: Lease,
    client: Rc<Client>,
) {
    tokio::task::spawn_local(async move {
        let Ok(near) = client_side.await else {
            return;
        };
        let mut near = TokioIo::new(near);
        // How a tunnel ends is between its two ends.
        let _ = copy_bidirectional(&mut near, &mut far).await;
        drop((lease, client));
    });
}
