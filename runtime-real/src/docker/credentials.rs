//! Registry credentials from Docker's own client config: `docker login` on the node is enough.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bollard::auth::DockerCredentials;
use mill_core::container::{OpError, OpErrorKind};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::errors::error;

/// A credential helper that takes longer has failed.
const HELPER_WITHIN: Duration = Duration::from_secs(10);
/// The key under which Docker keeps the credentials of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name by which a helper says that its secret is a token.
const TOKEN: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// What `docker login` left for the registry of an image, if anything.
pub(super) async fn for_image(
    config: Option<&Path>,
    reference: &str,
) -> Result<Option<DockerCredentials>, OpError> {
    let registry = registry(reference);
    let Some(config) = read(config)? else { return Ok(None) };
    if let Some(helper) = config.cred_helpers.get(&registry).or(config.creds_store.as_ref())
        && let Some(known) = ask(helper, &registry).await?
    {
        return Ok(Some(known));
    }
    let known = config.auths.iter().find(|(key, _)| host(key) == host(&registry));
    Ok(known.and_then(|(_, auth)| credentials(&registry, auth)))
}

fn read(path: Option<&Path>) -> Result<Option<Config>, OpError> {
    let path = path.map(Path::to_path_buf).or_else(usual_path);
    let Some(path) = path else { return Ok(None) };
    let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
        let detail = format!("{} cannot be read: {cause}; repair or remove it", path.display());
        error(OpErrorKind::RegistryRefused, detail)
    })
}

fn usual_path() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    Some(folder.or_else(home)?.join("config.json"))
}

fn credentials(registry: &str, auth: &Auth) -> Option<DockerCredentials> {
    let decoded = auth.auth.as_ref().and_then(|text| {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        Some((username.to_owned(), password.to_owned()))
    });
    let (username, password) = match (decoded, &auth.username, &auth.password) {
        (Some(pair), _, _) => pair,
        (None, Some(username), Some(password)) => (username.clone(), password.clone()),
        (None, _, _) => return None,
    };
    Some(DockerCredentials {
        username: Some(username),
        password: Some(password),
        identitytoken: auth.identitytoken.clone(),
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    })
}

/// Asks `docker-credential-HELPER`, which knows nothing of a registry when it fails.
async fn ask(helper: &str, registry: &str) -> Result<Option<DockerCredentials>, OpError> {
    let program = format!("docker-credential-{helper}");
    let refused = |cause: std::io::Error| {
        let detail = format!(
            "{program}, which keeps registry credentials, cannot run: {cause}; install it, or take \
             it out of Docker's client config and log in again"
        );
        error(OpErrorKind::RegistryRefused, detail)
    };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(refused)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(registry.as_bytes()).await.map_err(refused)?;
    }
    let Ok(output) = timeout(HELPER_WITHIN, child.wait_with_output()).await else {
        let detail = format!(
            "{program}, which keeps registry credentials, did not answer within {HELPER_WITHIN:?}; \
             run it by hand (`{program} list`) to see why"
        );
        return Err(error(OpErrorKind::RegistryRefused, detail));
    };
    let output = output.map_err(refused)?;
    let helped: Option<Helped> = serde_json::from_slice(&output.stdout).ok();
    Ok(helped.filter(|_| output.status.success()).map(|helped| helped.credentials(registry)))
}

impl Helped {
    fn credentials(self, registry: &str) -> DockerCredentials {
        let known = DockerCredentials {
            serveraddress: Some(registry.to_owned()),
            ..DockerCredentials::default()
        };
        match self.username.as_str() {
            TOKEN => DockerCredentials { identitytoken: Some(self.secret), ..known },
            _ => DockerCredentials {
                username: Some(self.username),
                password: Some(self.secret),
                ..known
            },
        }
    }
}

/// The registry of a reference, as Docker's config names it.
fn registry(reference: &str) -> String {
    match reference.split_once('/') {
        Some((host, _))
            if host != "docker.io" && (host.contains(['.', ':']) || host == "localhost") =>
        {
            host.to_owned()
        }
        Some(_) | None => DOCKER_HUB.to_owned(),
    }
}

fn host(key: &str) -> &str {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    key.split('/').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn user(config: &serde_json::Value, reference: &str) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config.to_string()).unwrap();
        let known = for_image(Some(file.path()), reference).await;
        let known = known.unwrap_or_else(|error| panic!("{}", error.detail));
        known.map(|known| known.username.unwrap())
    }

    #[tokio::test]
    async fn logins_are_found_under_the_names_that_docker_gives_them() {
        let auth = |login: &str| serde_json::json!({ "auth": BASE64_STANDARD.encode(login) });
        let config = serde_json::json!({ "auths": {
            DOCKER_HUB: auth("hub:1"),
            "https://r.example.com/v2/": auth("r:2"),
            "localhost:5000": { "username": "local", "password": "3" },
            "empty.example.com": {},
        }});
        let cases = [
            ("web:1", Some("hub")),
            ("shop/web", Some("hub")),
            ("docker.io/shop/web:1", Some("hub")),
            ("r.example.com/shop/web:1", Some("r")),
            ("localhost:5000/web@sha256:00", Some("local")),
            ("localhost:5001/web", None),
            ("empty.example.com/web", None),
        ];
        for (reference, expected) in cases {
            assert_eq!(user(&config, reference).await.as_deref(), expected, "{reference}");
        }
    }

    #[tokio::test]
    async fn a_helper_that_is_not_installed_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"credsStore": "no-such-helper"}"#).unwrap();
        let refused = for_image(Some(file.path()), "r.example.com/web").await.unwrap_err();
        assert_eq!(refused.kind, OpErrorKind::RegistryRefused);
        assert!(refused.detail.contains("docker-credential-no-such-helper"), "{}", refused.detail);
    }

    #[test]
    fn a_helper_may_answer_with_a_token() {
        let helped = |username: &str| Helped { username: username.into(), secret: "s".into() };
        let token = helped(TOKEN).credentials("r");
        assert_eq!((token.username, token.identitytoken.as_deref()), (None, Some("s")));
        let login = helped("me").credentials("r");
        assert_eq!((login.username.as_deref(), login.identitytoken), (Some("me"), None));
    }
}
