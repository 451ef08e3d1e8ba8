//! `mill node`, `mill token` and `mill leave`: who belongs to the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use mill_core::api::view::{NodeDetail, NodeView, StatusView};
use mill_core::api::{Answer, ApiError, ErrorCode};
use mill_core::name::NodeId;
use mill_core::units::Millis;
use mill_runtime_real::daemon::TokenWish;
use serde::Deserialize;
use serde_json::json;

use super::show::{print_allocs, stale, unexpected};
use super::{Outcome, daemon, done, pretty};
use crate::args::{
    Label, LabelChange, Leave, NodeCommand, NodeDrain, NodeInspect, NodeLabel, NodeLs, NodeName,
    NodeRm, Stale, TokenCommand, TokenCreate, TokenRevoke,
};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::progress::Waiting;
use crate::render::{self, counted, painted, table};

/// Between two looks at a node that empties.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// `mill node ...`.
pub async fn node(command: NodeCommand, json: bool) -> Outcome {
    match command {
        NodeCommand::Ls(args) => ls(args, json).await,
        NodeCommand::Inspect(args) => inspect(args, json).await,
        NodeCommand::Label(args) => label(args, json).await,
        NodeCommand::RotateKey(args) => rotate_key(args, json).await,
        NodeCommand::Drain(args) => drain(args, json).await,
        NodeCommand::Undrain(args) => undrain(args, json).await,
        NodeCommand::Rm(args) => rm(args, json).await,
    }
}

/// `mill token ...`.
pub async fn token(command: TokenCommand, json: bool) -> Outcome {
    match command {
        TokenCommand::Create(args) => create_token(args, json).await,
        TokenCommand::Rotate(args) => rotate_tokens(args, json).await,
        TokenCommand::Revoke(args) => revoke_tokens(args, json).await,
    }
}

async fn ls(args: NodeLs, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let view = status(&client, args.stale).await?;
    match json {
        true => println!("{}", pretty(&view.nodes)),
        false => print_nodes(&view.nodes, view.leader),
    }
    done()
}

async fn inspect(args: NodeInspect, json: bool) -> Outcome {
    let client = Client::new(&args.name.target.address)?;
    let path = stale(&path(&args.name.node, "")?, args.stale);
    let Answer::Node(detail) = client.get(&path).await? else { return unexpected() };
    match json {
        true => println!("{}", pretty(&detail)),
        false => print_detail(&detail),
    }
    done()
}

async fn label(args: NodeLabel, json: bool) -> Outcome {
    let client = Client::new(&args.name.target.address)?;
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    for change in args.changes {
        match change {
            LabelChange::Set(Label(key, value)) => drop(set.insert(key, value)),
            LabelChange::Remove(key) => remove.push(key),
        }
    }
    let path = path(&args.name.node, "/labels")?;
    change(&client, &path, json!({ "set": set, "remove": remove })).await?;
    let Answer::Node(detail) = client.get(&self::path(&args.name.node, "")?).await? else {
        return unexpected();
    };
    match json {
        true => println!("{}", pretty(&detail.node.labels)),
        false => println!("labels of {}: {}", detail.node.name, labels(&detail.node.labels)),
    }
    done()
}

async fn drain(args: NodeDrain, json: bool) -> Outcome {
    let NodeName { target, node } = args.name;
    let client = Client::new(&target.address)?;
    change(&client, &path(&node, "/drain")?, json!({ "on": true })).await?;
    if !args.detach {
        wait_until_empty(&client, &node, json).await?;
    }
    let text = match args.detach {
        true => format!("{node} is being emptied; `mill node inspect {node}` shows how far it is"),
        false => {
            format!("{node} is empty and gets nothing new; `mill node undrain {node}` ends that")
        }
    };
    said(&text, json)
}

async fn rotate_key(args: NodeName, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    change(&client, &path(&args.node, "/rotate-key")?, json!({})).await?;
    let what = "makes another key for the mesh as soon as it can tell the others";
    said(&format!("{} {what}; `mill node inspect {}` shows it", args.node, args.node), json)
}

async fn undrain(args: NodeName, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    change(&client, &path(&args.node, "/drain")?, json!({ "on": false })).await?;
    said(&format!("{} takes containers again", args.node), json)
}

async fn rm(args: NodeRm, json: bool) -> Outcome {
    let NodeName { target, node } = args.name;
    let client = Client::new(&target.address)?;
    change(&client, &path(&node, "/remove")?, json!({ "force": args.force })).await?;
    said(&format!("{node} is no node of the cluster any more"), json)
}

/// `mill leave`.
pub async fn leave(args: Leave, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let view = status(&client, Stale { wanted: true }).await?;
    let Some(own) = view.nodes.iter().find(|node| node.id == view.node) else {
        let message = "this machine is no node of a cluster any more";
        return Err(ApiError::new(ErrorCode::NotFound, message).into());
    };
    let number = own.id.to_string();
    if !args.force {
        change(&client, &path(&number, "/drain")?, json!({ "on": true })).await?;
        wait_until_empty(&client, &number, json).await?;
    }
    change(&client, &path(&number, "/remove")?, json!({ "force": args.force })).await?;
    let text = format!(
        "{} has left cluster {}; its daemon ends now. To join a cluster again, give it an empty \
         data directory",
        own.name, view.cluster
    );
    said(&text, json)
}

async fn create_token(args: TokenCreate, json: bool) -> Outcome {
    let client = Client::new(&args.target.address)?;
    let Millis(lasts) = args.lasts;
    let lasts = Some(Duration::from_millis(lasts));
    let wish = TokenWish { roles: args.role.0, lasts, once: args.once };
    let (address, token) = create(&client, &wish).await?;
    match json {
        true => println!("{}", pretty(&json!({ "token": token, "address": address }))),
        false => println!("{}", daemon::join_command(&address, &token)),
    }
    done()
}

/// Where to join, and a token for that.
pub async fn create(client: &Client, wish: &TokenWish) -> Result<(String, String), Failure> {
    #[derive(Deserialize)]
    struct Created {
        token: String,
        address: String,
    }
    let lasts = wish.lasts.map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX));
    let wish = json!({ "roles": wish.roles, "lasts": lasts, "once": wish.once });
    let Created { token, address } = client.post_for("/v1/tokens", &wish).await?;
    Ok((address, token))
}

/// The old ones end first: whoever is interrupted in between has none, and not one too many.
async fn rotate_tokens(args: TokenCreate, json: bool) -> Outcome {
    revoke(&Client::new(&args.target.address)?).await?;
    create_token(args, json).await
}

async fn revoke(client: &Client) -> Result<(), Failure> {
    change(client, "/v1/tokens/revoke", json!({})).await
}

async fn revoke_tokens(args: TokenRevoke, json: bool) -> Outcome {
    revoke(&Client::new(&args.target.address)?).await?;
    said("no token is good any more; nodes that have joined stay", json)
}

async fn status(client: &Client, old: Stale) -> Result<StatusView, Failure> {
    match client.get(&stale("/v1/status", old)).await? {
        Answer::Status(view) => Ok(view),
        other => Err(Failure::Failed(format!("the daemon answered something else: {other:?}"))),
    }
}

async fn change(client: &Client, path: &str, body: serde_json::Value) -> Result<(), Failure> {
    match client.post(path, &body).await? {
        Answer::Done => Ok(()),
        other => Err(Failure::Failed(format!("the daemon answered something else: {other:?}"))),
    }
}

/// Ends when no alloc is left on the node. Interrupting it changes nothing: the node goes on
/// emptying.
async fn wait_until_empty(client: &Client, node: &str, json: bool) -> Result<(), Failure> {
    let mut shown: Option<(usize, Option<Waiting>)> = None;
    loop {
        let Answer::Node(detail) = client.get(&path(node, "")?).await? else { return Ok(()) };
        let left = detail.allocs.iter().filter(|alloc| !alloc.phase.is_end()).count();
        if left == 0 {
            return Ok(());
        }
        if shown.as_ref().is_none_or(|(count, _)| *count != left) {
            let name = &detail.node.name;
            let count = counted(left, "container");
            let text = format!("{name} has {count} left; `mill why {name}` says what it waits for");
            if !json && !render::is_terminal() {
                println!("{text}");
            }
            drop(shown.take());
            shown = Some((left, (!json).then(|| Waiting::on(&text))));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The path of a node, and what to do with it.
fn path(node: &str, what: &str) -> Result<String, Failure> {
    if node.is_empty() || !node.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        let error = ApiError::new(ErrorCode::NotFound, format!("there is no node `{node}`"));
        return Err(error.hint("`mill node ls` lists the nodes").into());
    }
    Ok(format!("/v1/nodes/{node}{what}"))
}

fn said(text: &str, json: bool) -> Outcome {
    match json {
        true => println!("{}", json!({ "done": text })),
        false => println!("{text}"),
    }
    done()
}

/// The nodes as a table, and what troubles them.
pub fn print_nodes(nodes: &[NodeView], leader: Option<NodeId>) {
    let headings =
        ["NODE", "STATE", "ROLES", "ADDRESS", "CPU", "MEMORY", "ALLOCS", "VERSION", "LABELS"];
    let mut rows = table::table(&headings);
    for node in nodes {
        let role = match (leader == Some(node.id), node.votes, node.roles.primary) {
            (true, _, _) => " (leads)",
            (false, true, _) => " (votes)",
            (false, false, true | false) => "",
        };
        rows.add_row([
            node.name.clone(),
            state(node),
            format!("{}{role}", node.roles),
            node.advertise.clone(),
            format!("{}/{}", node.cpu.0, node.cpu.1),
            format!("{}/{}", node.memory.0, node.memory.1),
            node.allocs.to_string(),
            node.version.clone(),
            labels(&node.labels),
        ]);
    }
    table::print(&rows);
    for node in nodes {
        if let Some(trouble) = &node.trouble {
            println!("{}: {trouble}", node.name);
        }
    }
}

fn state(node: &NodeView) -> String {
    match (node.joining, node.up, node.draining) {
        (true, _, _) => painted("joining", render::YELLOW),
        (false, false, _) => painted("down", render::RED),
        (false, true, true) => painted("draining", render::YELLOW),
        (false, true, false) => painted("up", render::GREEN),
    }
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(" ")
}

fn print_detail(detail: &NodeDetail) {
    let node = &detail.node;
    println!("node {} (number {}): {}", node.name, node.id.0, state(node));
    println!("  roles      {}{}", node.roles, if node.votes { ", votes" } else { "" });
    println!("  address    {}, for nodes {}", node.advertise, detail.rpc);
    if let (Some(mesh), Some(address)) = (&detail.mesh, detail.mesh_address) {
        println!("  mesh       {address}, at {}, key {}", mesh.endpoint, mesh.key);
    }
    if detail.key_due {
        println!(
            "             its key is replaced once every node that is up has answered it outside \
             the mesh; if that lasts, let nodes reach each other over TCP there"
        );
    }
    println!("  cpu        {} of {} set aside", node.cpu.0, node.cpu.1);
    println!("  memory     {} of {} set aside", node.memory.0, node.memory.1);
    println!("  labels     {}", labels(&node.labels));
    println!("  version    {}, started {}", node.version, counted_times(detail.boot));
    println!("  key        {}", detail.key);
    if let Some(trouble) = &node.trouble {
        println!("  trouble    {trouble}");
    }
    println!();
    print_allocs(&detail.allocs);
    if !detail.lately.is_empty() {
        println!("\nlately:");
        detail.lately.iter().for_each(|line| println!("  {line}"));
    }
}

fn counted_times(boot: u64) -> String {
    match boot {
        1 => "once".to_owned(),
        times => format!("{times} times"),
    }
}
