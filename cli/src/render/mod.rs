//! Answers as text for people: colour only on a terminal and without `NO_COLOR`.

pub mod problems;
pub mod progress;
pub mod table;

use std::io::IsTerminal as _;

/// Whether what is printed to standard output may be coloured.
pub fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && is_terminal()
}

/// Whether a person watches standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
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
pub const FAINT: u8 = 2;
