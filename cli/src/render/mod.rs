//! Answers as text for people: colour only on a terminal and without `NO_COLOR`.
//!
//! `progress` is a deploy as it moves, `problems` what is wrong with a config, `table` the lists,
//! `pipe` the end of a command whose reader has gone.

pub mod pipe;
pub mod problems;
pub mod progress;
pub mod table;

use std::io::IsTerminal;

/// Whether what is printed to standard output may be coloured.
pub fn colour() -> bool {
    colour_on(&std::io::stdout())
}

/// Whether what is printed there may be coloured.
pub fn colour_on(output: &impl IsTerminal) -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && output.is_terminal()
}

/// Whether a person watches standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// A number of things: `1 service`, `2 services`.
pub fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Text in one of the sixteen colours that terminals agree on.
pub fn painted(text: &str, code: u8) -> String {
    match colour() {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

pub const RED: u8 = 31;
pub const GREEN: u8 = 32;
pub const YELLOW: u8 = 33;
