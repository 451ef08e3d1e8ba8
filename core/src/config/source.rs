//! The files of a project as text, and places in them as lines and columns.

use std::ops::Range;
use std::sync::Arc;

use super::problem::Location;

/// One file, already read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name as the user gave it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// All files, with the start of every line.
pub(super) struct Files<'a> {
    pub(super) sources: &'a [Source],
    names: Vec<Arc<str>>,
    lines: Vec<Vec<usize>>,
}

impl<'a> Files<'a> {
    pub(super) fn new(sources: &'a [Source]) -> Files<'a> {
        let starts = |source: &Source| {
            let after = source.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(after).collect()
        };
        Files {
            sources,
            names: sources.iter().map(|s| s.name.as_str().into()).collect(),
            lines: sources.iter().map(starts).collect(),
        }
    }

    /// The place of a byte range, widened to whole characters and cut at the end of the text.
    pub(super) fn locate(&self, source: usize, range: Range<usize>) -> Location {
        let text = self.sources[source].text.as_str();
        let start = text.floor_char_boundary(range.start.min(text.len()));
        let end = text.ceil_char_boundary(range.end.clamp(start, text.len()));
        let lines = &self.lines[source];
        let line = lines.partition_point(|begin| *begin <= start);
        let begin = lines[line - 1];
        Location {
            source,
            file: self.names[source].clone(),
            start,
            end,
            line,
            column: text[begin..start].chars().count() + 1,
        }
    }

    /// The start of the project's first file: where a problem goes that belongs to no line.
    pub(super) fn beginning(&self) -> Option<Location> {
        (!self.sources.is_empty()).then(|| self.locate(0, 0..0))
    }

    /// The place of a part of a string value. Escapes shift what follows them, so a part that
    /// cannot be found again as it stands is placed at the whole string.
    pub(super) fn within(&self, string: &Location, decoded: &str, part: Range<usize>) -> Location {
        let raw = &self.sources[string.source].text[string.start..string.end];
        let quotes = if raw.starts_with("\"\"\"") || raw.starts_with("'''") { 3 } else { 1 };
        let newline = match raw.get(quotes..) {
            Some(rest) if quotes == 3 && rest.starts_with("\r\n") => 2,
            Some(rest) if quotes == 3 && rest.starts_with('\n') => 1,
            _ => 0,
        };
        let shift = quotes + newline;
        let snippet = &decoded[part.clone()];
        let found = match raw.get(shift..shift + decoded.len()) {
            Some(same) if same == decoded => Some(shift + part.start),
            _ if snippet.is_empty() => None,
            _ => raw.find(snippet).filter(|first| raw.rfind(snippet) == Some(*first)),
        };
        let Some(offset) = found else { return string.clone() };
        let start = string.start + offset;
        self.locate(string.source, start..start + snippet.len())
    }
}
