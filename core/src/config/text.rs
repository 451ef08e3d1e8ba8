//! Strings with `${secret(NAME)}` and `${service.NAME.address}` in them.
//!
//! A [`Text`] is kept as it was written and checked when it is made; what it refers to is asked
//! of it when it is needed. Nothing is ever substituted here: secrets stay names in core.

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

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.to_owned())
    }
}

impl Text {
    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.0
    }
}
