//! The name server without sockets and without others to ask: what `fuzz/` drives.

use std::net::SocketAddr;
use std::sync::Arc;

use mill_core::net::Tables;
use tokio::sync::watch;

use super::askers::Over;
use super::others::Others;
use super::remembered::Remembered;
use super::{Names, Outcome};

/// A name server for datagrams.
#[derive(Debug)]
pub struct Resolver {
    names: Names,
    remembered: Remembered,
}

impl Resolver {
    /// Answers by these tables.
    pub fn new(tables: Tables) -> Resolver {
        let (_, tables) = watch::channel(Arc::new(tables));
        let names = Names::beside(tables, Others::none());
        Resolver { names, remembered: Remembered::new() }
    }

    /// What is sent back at once, if anything is, and whether it was remembered.
    pub fn answer(&mut self, question: &[u8]) -> Option<(Vec<u8>, bool)> {
        let mut answer = Vec::new();
        if self.remembered.answer(question, &mut answer) {
            return Some((answer, true));
        }
        let from = SocketAddr::from(([127, 0, 0, 1], 1));
        match self.names.answer_now(question, from, Over::Udp) {
            Outcome::Known(answer) => {
                self.remembered.keep(question, &answer);
                Some((answer, false))
            }
            Outcome::Once(answer) | Outcome::Malformed(answer) => Some((answer, false)),
            Outcome::NotOurs(_) | Outcome::Silent => None,
        }
    }

    /// As if the tables had changed.
    pub fn forget(&mut self) {
        self.remembered.forget();
    }
}
