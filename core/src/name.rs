//! Names and ids: what services, nodes, slots and allocs are called, everywhere.
//!
//! Names are checked where they enter (config, API), so code that holds one need not doubt it.
//! Ids are cheap to clone and order the way a person would list them.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest [`Name`]: a DNS label (RFC 1035, section 2.3.4).
pub const NAME_MAX: usize = 63;

/// A DNS label: lower-case letters, digits and inner hyphens, starting with a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid name; use 1 to 63 lower-case letters, digits and hyphens, starting with a letter and not ending with a hyphen"
)]
pub struct BadName(pub String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Name, BadName> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=NAME_MAX).contains(&text.len())
            && text.bytes().all(allowed)
            && text.as_bytes()[0].is_ascii_lowercase()
            && !text.ends_with('-');
        if valid { Ok(Name(text.into())) } else { Err(BadName(text.to_owned())) }
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Name, BadName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.as_ref().to_owned()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A node's number in its cluster, given once and never reused. Starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// Why a text is not a [`NodeId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a node's number; write it as in `n3`")]
pub struct BadNodeId(pub String);

impl std::str::FromStr for NodeId {
    type Err = BadNodeId;

    fn from_str(text: &str) -> Result<NodeId, BadNodeId> {
        let number = text.strip_prefix('n').and_then(|number| number.parse().ok());
        number.map(NodeId).ok_or_else(|| BadNodeId(text.to_owned()))
    }
}

/// A replica's place in a service: `web.0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot {
    /// The service it belongs to.
    pub service: Name,
    /// From 0; for a service on each node, the node's number.
    pub index: u64,
}

/// Why a text is not a [`Slot`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a slot; write the service and a number, as in `web.0`")]
pub struct BadSlot(pub String);

impl std::str::FromStr for Slot {
    type Err = BadSlot;

    fn from_str(text: &str) -> Result<Slot, BadSlot> {
        let bad = || BadSlot(text.to_owned());
        let (service, index) = text.rsplit_once('.').ok_or_else(bad)?;
        Ok(Slot {
            service: service.parse().map_err(|_| bad())?,
            index: index.parse().map_err(|_| bad())?,
        })
    }
}

impl TryFrom<String> for Slot {
    type Error = BadSlot;

    fn try_from(text: String) -> Result<Slot, BadSlot> {
        text.parse()
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> String {
        slot.to_string()
    }
}

/// One attempt to fill a slot on one node, one container: `web.0-k3f9`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AllocId(Arc<str>);

impl AllocId {
    /// The id of an alloc of `slot`, told apart from others by `tag`.
    pub fn new(slot: &Slot, tag: &str) -> AllocId {
        AllocId(format!("{slot}-{tag}").into())
    }

    /// An id that was written before: in a container's label, on a command line.
    pub fn known(text: &str) -> AllocId {
        AllocId(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.index)
    }
}

impl fmt::Display for AllocId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

macro_rules! debug_as_display {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(Name, NodeId, Slot, AllocId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["web", "a", "shop-db-2"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "Web", "2web", "web-", "-web", "we.b", "we_b", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn slots_order_by_number_and_travel_as_text() {
        let slot = |text: &str| text.parse::<Slot>().unwrap();
        assert!(slot("web.2") < slot("web.10"));
        assert_eq!(serde_json::to_string(&slot("web.0")).unwrap(), "\"web.0\"");
        assert!("web".parse::<Slot>().is_err());
    }
}
