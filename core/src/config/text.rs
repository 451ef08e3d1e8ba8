//! Strings with `${secret(NAME)}` and `${service.NAME.address}` in them.
//!
//! A [`Text`] is kept as it was written and checked when it is made; what it refers to is asked
//! of it when it is needed. Nothing is ever substituted here: secrets stay names in core.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// A string that may refer to secrets and services. `$${` is a literal `${`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(String);

/// A piece of a [`Text`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Taken as it is.
    Literal(String),
    /// The value of a secret: `${secret(shop.db-url)}`.
    Secret(String),
    /// The stable address of a service: `${service.db.address}`.
    ServiceAddress(Name),
}

/// A `${` that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct BadText {
    /// The bytes of the text that are wrong.
    pub at: Range<usize>,
    /// What is wrong, a sentence in lower case.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// The longest name of a secret, in bytes.
pub const SECRET_NAME_MAX: usize = 128;

const WHAT_THERE_IS: &str =
    "write `${secret(NAME)}`, `${service.NAME.address}`, or `$${` for a literal `${`";

/// Taken as it is: a `${` that [`Text::parse`] would refuse is literal.
impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.to_owned())
    }
}

impl Text {
    /// Checks that every `${` in `text` means something.
    ///
    /// # Errors
    /// Each one that does not, in order, with its place in `text`.
    pub fn parse(text: &str) -> Result<Text, Vec<BadText>> {
        let bad: Vec<BadText> = scan(text).into_iter().filter_map(|p| p.what.err()).collect();
        if bad.is_empty() { Ok(Text(text.to_owned())) } else { Err(bad) }
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.0
    }

    /// What it is made of, in order, without two literals in a row.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for Piece { at, what } in scan(&self.0) {
            match (what.unwrap_or_else(|_| Part::Literal(self.0[at].to_owned())), parts.last_mut())
            {
                (Part::Literal(more), Some(Part::Literal(text))) => text.push_str(&more),
                (part, _) => parts.push(part),
            }
        }
        parts
    }

    /// The services whose address it holds, each with the bytes that say so.
    pub(super) fn services(&self) -> impl Iterator<Item = (Name, Range<usize>)> {
        scan(&self.0).into_iter().filter_map(|piece| match piece.what {
            Ok(Part::ServiceAddress(name)) => Some((name, piece.at)),
            Ok(Part::Literal(_) | Part::Secret(_)) | Err(_) => None,
        })
    }
}

struct Piece {
    at: Range<usize>,
    what: Result<Part, BadText>,
}

fn scan(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut push = |at: Range<usize>, what| pieces.push(Piece { at, what });
    let mut done = 0;
    while let Some(found) = text[done..].find("${").map(|at| done + at) {
        if text[done..found].ends_with('$') {
            let escape = found - 1..found + 2;
            push(done..escape.start, Ok(Part::Literal(text[done..escape.start].to_owned())));
            push(escape.clone(), Ok(Part::Literal("${".to_owned())));
            done = escape.end;
            continue;
        }
        push(done..found, Ok(Part::Literal(text[done..found].to_owned())));
        // A second `${` before the `}` means that this one was never closed.
        let after = &text[found + 2..];
        let end = after.find('}').filter(|end| !after[..*end].contains("${"));
        let stop = match end {
            Some(end) => found + 2 + end + 1,
            None => after.find("${").map_or(text.len(), |next| found + 2 + next),
        };
        let what = match end {
            Some(end) => reference(&after[..end]),
            None => Err(("`${` is never closed".to_owned(), WHAT_THERE_IS.to_owned())),
        };
        let at = found..stop;
        let what = what.map_err(|(message, help)| BadText { at: at.clone(), message, help });
        push(at, what);
        done = stop;
    }
    push(done..text.len(), Ok(Part::Literal(text[done..].to_owned())));
    pieces.retain(|piece| !piece.at.is_empty());
    pieces
}

fn reference(inner: &str) -> Result<Part, (String, String)> {
    let unknown = |help: String| Err((format!("`${{{inner}}}` refers to nothing"), help));
    if let Some(name) = inner.strip_prefix("secret(").and_then(|rest| rest.strip_suffix(')')) {
        return match check_secret_name(name) {
            Ok(()) => Ok(Part::Secret(name.to_owned())),
            Err(sentence) => {
                let (what, rule) = sentence.split_once("; ").unwrap_or((&sentence, ""));
                let close = name.trim().to_lowercase().replace(['/', ':', ' '], ".");
                let written = match check_secret_name(&close) {
                    Ok(()) => close.as_str(),
                    Err(_) => "shop.db-url",
                };
                Err((what.to_owned(), format!("write `${{secret({written})}}`: {rule}")))
            }
        };
    }
    if let Some(rest) = inner.strip_prefix("service.") {
        let (name, field) = rest.rsplit_once('.').unwrap_or((rest, ""));
        return match name.parse::<Name>() {
            Ok(name) if field == "address" => Ok(Part::ServiceAddress(name)),
            Ok(name) => unknown(format!(
                "a service has an `address` (host and port): write `${{service.{name}.address}}`"
            )),
            Err(bad) => {
                let sentence = bad.to_string();
                let (what, rule) = sentence.split_once("; ").unwrap_or((&sentence, ""));
                Err((what.to_owned(), format!("write it as in `${{service.db.address}}`: {rule}")))
            }
        };
    }
    let name = inner.trim().trim_start_matches("secrets").trim_start_matches("secret");
    let name = name.trim_matches(|c: char| " .:()'\"".contains(c));
    if inner.trim().starts_with("secret") && check_secret_name(name).is_ok() {
        return unknown(format!("write `${{secret({name})}}`"));
    }
    unknown(WHAT_THERE_IS.to_owned())
}

/// Whether a secret can be called `name`: parts of lower-case letters, digits, `-` and `_`,
/// joined by dots, starting with a letter; [`SECRET_NAME_MAX`] bytes at most.
///
/// # Errors
/// A sentence that says what a name may be.
pub fn check_secret_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    let part = |part: &str| !part.is_empty() && part.bytes().all(allowed);
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if starts && name.len() <= SECRET_NAME_MAX && name.split('.').all(part) {
        return Ok(());
    }
    let what = match name {
        "" => "a secret's name is missing".to_owned(),
        name => format!("`{name}` cannot name a secret"),
    };
    Err(format!(
        "{what}; use lower-case letters, digits, `-` and `_`, in parts \
         joined by dots, starting with a letter"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Part {
        Part::Literal(text.to_owned())
    }

    #[test]
    fn a_text_is_literals_secrets_and_addresses_in_order() {
        let text = Text::parse("postgres://${secret(shop.db-url)}@${service.db.address}/x$y");
        assert_eq!(
            text.unwrap().parts(),
            [
                literal("postgres://"),
                Part::Secret("shop.db-url".to_owned()),
                literal("@"),
                Part::ServiceAddress("db".parse().unwrap()),
                literal("/x$y"),
            ]
        );
    }

    #[test]
    fn two_dollars_before_a_brace_are_a_literal_dollar_and_brace() {
        let parts = |text: &str| Text::parse(text).unwrap().parts();
        assert_eq!(parts("a $${HOME} b"), [literal("a ${HOME} b")]);
        assert_eq!(parts("$$${HOME}"), [literal("$${HOME}")]);
        assert_eq!(parts("$$ and $"), [literal("$$ and $")]);
        assert_eq!(parts(""), []);
    }

    #[test]
    fn every_bad_reference_is_found_at_its_place() {
        let text = "é${HOME} ${secret(UP)} ${service.db.port} ${open";
        let bad = Text::parse(text).unwrap_err();
        let at: Vec<&str> = bad.iter().map(|b| &text[b.at.clone()]).collect();
        assert_eq!(at, ["${HOME}", "${secret(UP)}", "${service.db.port}", "${open"]);
        assert!(bad[2].help.contains("${service.db.address}"), "{}", bad[2].help);
        assert_eq!(Text::from(text).parts(), [literal(text)]);
    }

    #[test]
    fn near_misses_of_a_secret_are_spelled_out() {
        for near in ["${secret.db}", "${secrets(db)}", "${secret:db}", "${secret('db')}"] {
            let bad = Text::parse(near).unwrap_err();
            assert!(
                bad[0].help.contains("${secret(db)}") || bad[0].help.contains("shop.db-url"),
                "{near}: {}",
                bad[0].help
            );
        }
    }
}
