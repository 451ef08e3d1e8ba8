//! What is wrong with a config, as plain data: a code, a sentence, a place and what to do.
//!
//! [`Problem::render`] is the plain spelling; a client may colour the same data its own way.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A stretch of one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// The file's index among the sources that were parsed.
    pub source: usize,
    /// The file's name as the user gave it.
    pub file: Arc<str>,
    /// First byte.
    pub start: usize,
    /// The byte after the last one; equal to `start` where something is missing.
    pub end: usize,
    /// Line of the first byte, from 1.
    pub line: usize,
    /// Column of the first byte in characters, from 1.
    pub column: usize,
}

impl Location {
    /// The bytes that it covers.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// File and line, for use in a sentence.
    pub(super) fn file_and_line(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// A second place that has to do with a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The place.
    pub at: Location,
    /// What is there: `first defined here`.
    pub label: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, kebab-case: `unknown-field`.
    pub code: Cow<'static, str>,
    /// A sentence in lower case, without a full stop.
    pub message: String,
    /// What is underlined.
    pub primary: Location,
    /// Said beside the underline; may be empty.
    pub label: String,
    /// Other places that one has to see.
    pub secondary: Vec<Note>,
    /// What to write instead, when that is known.
    pub help: Option<String>,
}

impl Problem {
    pub(super) fn new(
        code: &'static str,
        primary: Location,
        message: impl Into<String>,
    ) -> Problem {
        Problem {
            code: Cow::Borrowed(code),
            message: message.into(),
            primary,
            label: String::new(),
            secondary: Vec::new(),
            help: None,
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Problem {
        self.label = label.into();
        self
    }

    pub(super) fn note(mut self, at: Location, label: impl Into<String>) -> Problem {
        self.secondary.push(Note { at, label: label.into() });
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}
