//! What happens in the engine without being asked: containers that end, the engine itself.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt as _;
use mill_core::container::Observed;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{CALL_WITHIN, Engine};
use crate::clock;

/// Between two tries to reach an engine that does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// Something that the engine did by itself.
#[derive(Clone, Debug)]
pub enum EngineSignal {
    /// A container of ours ended.
    Died(Observed),
    /// The engine answers; what was known of it may be stale.
    Connected,
    /// It does not answer any more.
    Lost {
        /// Why.
        detail: String,
    },
}

impl Engine {
    /// Tells what happens, for ever; reconnects by itself.
    pub async fn watch(&self, into: mpsc::Sender<EngineSignal>) {
        let mut was_lost = false;
        while !into.is_closed() {
            let detail = match self.docker().await {
                Ok(docker) => {
                    was_lost = false;
                    self.follow(&docker, &into).await
                }
                Err(error) => error.detail,
            };
            self.forget_client();
            if !was_lost {
                was_lost = true;
                send(&into, EngineSignal::Lost { detail }).await;
            }
            sleep(RETRY).await;
        }
    }

    /// Follows the engine's events until they end; says why they did.
    async fn follow(&self, docker: &Docker, into: &mpsc::Sender<EngineSignal>) -> String {
        match timeout(CALL_WITHIN, docker.ping()).await {
            Ok(Ok(_)) => {}
            Ok(Err(cause)) => return super::errors::of("asking the engine", &cause).detail,
            Err(_) => return "the engine does not answer".to_owned(),
        }
        // From a second ago: what ends between the listing and the subscription is not missed.
        let since = (clock::wall().0 / 1000).saturating_sub(1);
        let filters = [
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), vec!["die".to_owned()]),
            ("label".to_owned(), self.our_labels()),
        ];
        let options = EventsOptions {
            since: Some(since.to_string()),
            filters: Some(filters.into()),
            ..EventsOptions::default()
        };
        let mut events = Box::pin(docker.events(Some(options)));
        send(into, EngineSignal::Connected).await;
        loop {
            let event = match events.next().await {
                Some(Ok(event)) => event,
                Some(Err(cause)) => {
                    return super::errors::of("following the engine", &cause).detail;
                }
                None => return "the engine closed the connection".to_owned(),
            };
            let Some(id) = event.actor.and_then(|actor| actor.id) else { continue };
            // One that was removed at once is seen by whoever removed it.
            if let Ok(Some(observed)) = self.inspect(docker, &id).await {
                send(into, EngineSignal::Died(observed)).await;
            }
        }
    }
}

async fn send(into: &mpsc::Sender<EngineSignal>, signal: EngineSignal) {
    // The receiver ends with the daemon.
    let _ = into.send(signal).await;
}
