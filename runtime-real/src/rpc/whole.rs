//! Bodies that are whole or fail.
//!
//! hyper ends a body without an error when its connection was given up with `NO_ERROR`, which is
//! what its own server does once a ping was not answered. So the part of a body that came before a
//! cut would pass for all of it. Every node announces how long a body is; here it has to be. Tested
//! in `daemon/tests/pieces.rs`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

/// A body that fails if it ends before its announced length.
pub(super) struct Whole(pub(super) Incoming);

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(context));
        let missing = self.0.size_hint().lower();
        Poll::Ready(match frame {
            None if missing > 0 => {
                let text = format!("the connection ended {missing} bytes before its body did");
                Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)))
            }
            frame => frame.map(|frame| frame.map_err(io::Error::other)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
