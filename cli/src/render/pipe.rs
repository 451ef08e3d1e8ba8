//! What becomes of a command whose reader has gone, as in `mill logs | head`.
//!
//! The standard library panics when standard output cannot be written. That panic is kept quiet
//! here and unwinds to `main`, past whatever has to be cleaned up on the way, and becomes the exit
//! code that shells show for SIGPIPE. The signal itself stays ignored: a daemon must not die of a
//! connection that was closed. Tested in `tests/words.rs`.

use std::any::Any;
use std::panic;
use std::process::ExitCode;

/// 128 and the number of SIGPIPE, as shells count.
pub const ENDED_BY_SIGPIPE: u8 = 141;

/// Runs a command; if its reader goes away, it ends without a word.
pub fn quietly(command: impl FnOnce() -> ExitCode) -> ExitCode {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !is_broken_pipe(info.payload()) {
            loud(info);
        }
    }));
    match panic::catch_unwind(panic::AssertUnwindSafe(command)) {
        Ok(code) => code,
        Err(payload) if is_broken_pipe(&*payload) => ExitCode::from(ENDED_BY_SIGPIPE),
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Whether a panic is that of `println!` on a pipe that nobody reads.
fn is_broken_pipe(payload: &(dyn Any + Send)) -> bool {
    payload.downcast_ref::<String>().is_some_and(|text| {
        text.starts_with("failed printing to std") && text.contains("Broken pipe")
    })
}
