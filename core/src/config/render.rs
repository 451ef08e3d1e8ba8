//! Problems as plain text: place, sentence, the offending line underlined, what to write instead.
//!
//! The same problem gives the same bytes everywhere. Tabs become four blanks, and wide characters
//! count for two columns, so the underline stands below what it means.

use std::fmt::Write as _;

use super::problem::{Location, Problem};
use super::source::Source;

const TAB: &str = "    ";

impl Problem {
    /// The problem for a terminal without colour. `sources` are those that were parsed; a place
    /// in a file that is not among them is named but not shown.
    pub fn render(&self, sources: &[Source]) -> String {
        let mut out = format!("{}: {} [{}]\n", place(&self.primary), self.message, self.code);
        let all = self.secondary.iter().map(|n| n.at.line).chain([self.primary.line]);
        let gutter = all.max().unwrap_or(0).to_string().len();
        snippet(&mut out, sources, &self.primary, &self.label, gutter);
        for note in &self.secondary {
            let _ = writeln!(out, "  {}:", place(&note.at));
            snippet(&mut out, sources, &note.at, &note.label, gutter);
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "  help: {help}");
        }
        out
    }
}

fn place(at: &Location) -> String {
    format!("{}:{}:{}", at.file, at.line, at.column)
}

fn snippet(out: &mut String, sources: &[Source], at: &Location, label: &str, gutter: usize) {
    let source = sources.get(at.source).filter(|s| s.text.get(at.range()).is_some());
    let Some(text) = source.map(|s| s.text.as_str()) else { return };
    let begin = text[..at.start].rfind('\n').map_or(0, |newline| newline + 1);
    let finish = text[begin..].find('\n').map_or(text.len(), |length| begin + length);
    let line = text[begin..finish].trim_end_matches('\r');
    let start = (at.start - begin).min(line.len());
    let stop = (at.end - begin).clamp(start, line.len());
    let before = columns(&line[..start]);
    let under = columns(&line[start..stop]).max(1);
    let _ = writeln!(out, "  {:>gutter$} | {}", at.line, shown(line).trim_end());
    let mut marks = format!("{}{}", " ".repeat(before), "^".repeat(under));
    if at.end > finish {
        let last = at.line + text[at.start..at.end].trim_end().matches('\n').count();
        let _ = write!(marks, " to line {last}");
        marks.push_str(if label.is_empty() { "" } else { ":" });
    }
    if !label.is_empty() {
        let _ = write!(marks, " {label}");
    }
    let _ = writeln!(out, "  {:>gutter$} | {marks}", "");
}

fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str(TAB),
            c if c.is_control() => shown.push(char::REPLACEMENT_CHARACTER),
            c => shown.push(c),
        }
    }
    shown
}

fn columns(text: &str) -> usize {
    let wide = |c: char| match c {
        '\t' => TAB.len(),
        c if in_ranges(&COMBINING, c) => 0,
        c if in_ranges(&WIDE, c) => 2,
        _ => 1,
    };
    text.chars().map(wide).sum()
}

fn in_ranges(ranges: &[(u32, u32)], c: char) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

/// Blocks that Unicode's EastAsianWidth.txt calls wide, and emoji: close enough for an underline.
const WIDE: [(u32, u32); 9] = [
    (0x1100, 0x115F),
    (0x2E80, 0x303E),
    (0x3041, 0xA4CF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE6F),
    (0xFF00, 0xFF60),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x3FFFD),
];

/// Combining marks, joiners and variation selectors take no column of their own.
const COMBINING: [(u32, u32); 4] =
    [(0x0300, 0x036F), (0x200B, 0x200F), (0x20D0, 0x20FF), (0xFE00, 0xFE0F)];
