//! Accounts at a directory, and the credentials that they are used with.

use std::fmt;

use instant_acme::{Account, AccountBuilder, AccountCredentials, NewAccount};

use crate::client::Https;
use crate::error::{AcmeError, ErrorKind};
use crate::explain::{Step, explain, nonced};

/// Where certificates are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The directory's URL, such as `https://acme-v02.api.letsencrypt.org/directory`.
    pub url: String,
    /// PEM of a further authority that the directory's own HTTPS is trusted by, beside those of
    /// the machine: for private authorities.
    pub root: Option<String>,
}

/// An account with its private key, as JSON. Secret: whoever has it can order certificates for
/// every name that the account has proven lately.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(String);

impl Credentials {
    /// What [`Credentials::to_text`] gave. It is read when it is used.
    pub fn from_text(text: impl Into<String>) -> Credentials {
        Credentials(text.into())
    }

    /// The credentials as JSON, to be stored encrypted.
    pub fn to_text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// Makes an account with a key of its own, agreeing to the authority's terms of service. Repeated,
/// it makes another account.
///
/// # Errors
/// `Refused` for an email that the authority does not take, or if it wants accounts to be bound to
/// a contract (external account binding), which mill does not do.
pub async fn register(
    directory: &Directory,
    email: Option<&str>,
) -> Result<Credentials, AcmeError> {
    let https = Https::new(directory).await?;
    let contact = email.map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let account = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (_, made) = nonced!(builder(&https).create(&account, directory.url.clone(), None))
        .map_err(|error| explain(Step::Register, directory, error))?;
    let text = serde_json::to_string(&made)
        .map_err(|_| AcmeError::internal("cannot store an account", "it is no JSON"))?;
    Ok(Credentials(text))
}

/// The account that these credentials are of. Asks for the directory.
pub(crate) async fn open(
    directory: &Directory,
    credentials: &Credentials,
) -> Result<Account, AcmeError> {
    let url = serde_json::from_str::<serde_json::Value>(&credentials.0);
    let url = url.ok().and_then(|json| Some(json.get("directory")?.as_str()?.to_owned()));
    // The error of the JSON reader may repeat what it read, so it is not shown.
    let (Some(url), Ok(read)) = (url, serde_json::from_str::<AccountCredentials>(&credentials.0))
    else {
        return Err(AcmeError::new(
            ErrorKind::Account,
            "the stored credentials of the ACME account cannot be read: register anew",
        ));
    };
    if url != directory.url {
        return Err(AcmeError::new(
            ErrorKind::Account,
            format!("the ACME account is one of {url}, not of {}: register anew", directory.url),
        ));
    }
    let https = Https::new(directory).await?;
    builder(&https)
        .from_credentials(read)
        .await
        .map_err(|error| explain(Step::Directory, directory, error))
}

fn builder(https: &Https) -> AccountBuilder {
    Account::builder_with_http(Box::new(https.clone()))
}
