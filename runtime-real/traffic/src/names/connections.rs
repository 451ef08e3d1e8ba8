//! Questions over TCP: one after the other on each connection, each answered before the next is
//! read, so that whoever takes no answers is asked for no more questions.
//!
//! How many connections there may be, in total and of one asker: `limits`. One that comes over that
//! is closed at once: whoever asks is told without waiting, and asks again (RFC 7766 section 6.2).
//! Tested with real sockets in `tests/names.rs` and `tests/limits.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::askers::{Asker, Askers, Over};
use super::{Names, Outcome, Passed};
use crate::forwarders::is_callers;

/// A connection on which no whole question comes for so long is closed; so is one whose answer is
/// not taken.
const QUIET: Duration = Duration::from_secs(10);
/// After the kernel refused something, this long nothing is asked of it.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a question, at most; whoever sends more wants none answered.
const LONGEST: usize = 4096;

/// Answers until it is aborted, and every connection with it.
pub(super) async fn serve(names: Arc<Names>, askers: Askers, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        // What has ended is forgotten.
        while connections.try_join_next().is_some() {}
        let accepted = listener.accept().await;
        let accepted = accepted.and_then(|(stream, from)| Ok((stream.local_addr()?, stream, from)));
        let (here, stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_callers(&error) => continue,
            Err(error) => {
                tracing::debug!(%error, "a connection for names was not accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let asker = askers.who(Over::Tcp, from, here);
        let Some(place) = names.limits.connection(asker) else {
            names.counts.refused_connections.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let names = names.clone();
        connections.spawn(async move {
            if let Err(error) = answer_all(&names, stream, from, asker).await {
                tracing::debug!(%error, "a connection for names broke off");
            }
            drop(place);
        });
    }
}

/// Answers what comes over one connection.
async fn answer_all(
    names: &Names,
    mut stream: TcpStream,
    from: SocketAddr,
    asker: Asker,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut question = Vec::with_capacity(LONGEST);
    while timeout(QUIET, read(&mut stream, &mut question)).await?? {
        let Some(answer) = answer(names, &question, from, asker).await else { continue };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(QUIET, stream.write_all(&message)).await??;
    }
    Ok(())
}

/// The answer to a question; none to what gets none.
async fn answer(names: &Names, question: &[u8], from: SocketAddr, asker: Asker) -> Option<Vec<u8>> {
    let (answer, count) = match names.answer_now(question, from, Over::Tcp) {
        Outcome::Known(answer) | Outcome::Once(answer) => (answer, &names.counts.known),
        Outcome::Malformed(answer) => (answer, &names.counts.malformed),
        Outcome::Silent => return None,
        Outcome::NotOurs(request) => {
            return Some(match names.pass_on(&request, || asker) {
                Passed::Now(answer) => answer,
                Passed::Later(waiting) => names.answer_later(&request, waiting).await,
            });
        }
    };
    count.fetch_add(1, Ordering::Relaxed);
    Some(answer)
}

/// Reads a question (RFC 1035 section 4.2.2); false if there is none any more.
async fn read(stream: &mut TcpStream, question: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a question of too many bytes"));
    }
    question.resize(length, 0);
    stream.read_exact(question).await?;
    Ok(true)
}
