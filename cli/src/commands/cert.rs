//! `mill cert`: certificates of hosts that routes are for.

use std::path::Path;

use mill_core::api::Answer;
use mill_core::api::view::{CertificateSource, CertificateView, CertificatesView};
use serde_json::json;

use super::past::moment;
use super::show::{stale, unexpected};
use super::{Outcome, done, pretty};
use crate::args::CertCommand;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, painted, table};

/// `mill cert`.
pub async fn cert(command: CertCommand, json: bool) -> Outcome {
    match command {
        CertCommand::Ls(args) => {
            let client = Client::new(&args.target.address)?;
            let Answer::Certificates(view) =
                client.get(&stale("/v1/certificates", args.stale)).await?
            else {
                return unexpected();
            };
            match json {
                true => println!("{}", pretty(&view)),
                false => print(&view),
            }
            done()
        }
        CertCommand::Import(args) => {
            let client = Client::new(&args.target.address)?;
            let (chain, key) = (read(&args.cert)?, read(&args.key)?);
            let body = json!({ "chain": chain, "key": key, "default": args.default });
            client.post("/v1/certificates", &body).await?;
            if !json {
                println!("imported: every node shows it within moments");
            }
            done()
        }
        CertCommand::Rm(args) => {
            let client = Client::new(&args.target.address)?;
            let path = format!("/v1/certificates/{}/remove", args.name);
            client.post(&path, &json!({})).await?;
            if !json {
                println!("removed");
            }
            done()
        }
        CertCommand::Renew(args) => {
            let client = Client::new(&args.target.address)?;
            let path = format!("/v1/certificates/{}/renew", args.name);
            client.post(&path, &json!({})).await?;
            if !json {
                println!("a new one is ordered; `mill cert ls` shows how that goes");
            }
            done()
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path);
    text.map_err(|error| Failure::Failed(format!("cannot read {}: {error}", path.display())))
}

fn print(view: &CertificatesView) {
    if view.certificates.is_empty() {
        println!("no certificates; `tls = true` on a route orders one from {}", view.directory);
        return;
    }
    let mut certificates = table::table(&["NAMES", "SOURCE", "STATE", "GOOD UNTIL", "NEXT TRY"]);
    for certificate in &view.certificates {
        let names = certificate.names.join(" ");
        let default = if certificate.default { " (default)" } else { "" };
        certificates.add_row([
            format!("{names}{default}"),
            source(certificate.source).to_owned(),
            state(certificate),
            certificate.not_after.map(moment).unwrap_or_default(),
            certificate.retry.map(moment).unwrap_or_default(),
        ]);
    }
    table::print(&certificates);
    for certificate in &view.certificates {
        if let Some(trouble) = &certificate.trouble {
            println!("{}: {trouble}", certificate.names.join(" "));
        }
    }
}

fn source(source: CertificateSource) -> &'static str {
    match source {
        CertificateSource::Ordered => "ordered",
        CertificateSource::Imported => "imported",
    }
}

fn state(certificate: &CertificateView) -> String {
    let now = mill_runtime_real::clock::wall();
    let (word, colour) = match certificate {
        CertificateView { not_after: Some(end), .. } if *end <= now => ("ended", render::YELLOW),
        CertificateView { not_after: Some(_), trouble: Some(_), .. } => {
            ("there, not renewed", render::YELLOW)
        }
        CertificateView { not_after: Some(_), .. } => ("there", render::GREEN),
        CertificateView { ordering: true, .. } => ("ordering", render::YELLOW),
        CertificateView { trouble: Some(_), .. } => ("failed", render::YELLOW),
        _ => ("wanted", render::YELLOW),
    };
    painted(word, colour)
}
