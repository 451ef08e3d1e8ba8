//! Single stories, told step by step: what happens to containers, deploys and nodes.

mod containers;
mod deploys;
mod drains;
mod engines;
mod forwarding;
mod gray;
mod members;
mod nodes;
mod recordings;
mod recovery;
mod returns;
mod upgrades;

/// A service with one replica and an http health check.
pub const WEB: &str = "
[service.web]
image = \"web:1\"
port = 8080
[service.web.health]
path = \"/\"
";
