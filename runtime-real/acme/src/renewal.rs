//! When the authority would have a certificate renewed (RFC 9773).
//!
//! Unlike the rest of ACME this is read without an account, so it does not go through
//! `instant-acme`, whose call wants one and fails where the header `Retry-After` is missing.

use std::time::Duration;

use instant_acme::{Error, RenewalInfo};

use crate::account::Directory;
use crate::client::{Https, Trouble, retry_after};
use crate::error::{AcmeError, ErrorKind, quoted};
use crate::explain::{Step, explain};
use crate::order::identifier;

/// When to ask again where the authority does not say (RFC 9773 section 4.3.3).
const LOOK_AGAIN: Duration = Duration::from_secs(6 * 3_600);
/// Bounds on when to ask again (RFC 9773 section 4.3.2).
const LOOK_AGAIN_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(86_400));

/// When a certificate should be renewed: at a random moment of this window, or at once if the
/// window is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewalWindow {
    /// Its start, in milliseconds since 1970.
    pub start_ms: u64,
    /// Its end, after the start, in milliseconds since 1970.
    pub end_ms: u64,
    /// In how long to ask again, in milliseconds: a minute to a day. The window moves if the
    /// authority must revoke the certificate.
    pub look_again_ms: u64,
}

/// When the authority would have this certificate renewed. `None` if it does not say: it offers
/// no renewal information, or does not know the certificate.
///
/// # Errors
/// `Unreachable` also for a window that is none; `RateLimited`.
pub async fn renewal(
    directory: &Directory,
    chain_pem: &str,
) -> Result<Option<RenewalWindow>, AcmeError> {
    let Some(certificate) = identifier(chain_pem) else { return Ok(None) };
    let https = Https::new(directory).await?;
    let failed = |error| explain(Step::Renewal, directory, error);
    let (_, index) = https.get(&directory.url).await.map_err(failed)?;
    let index: serde_json::Value =
        serde_json::from_slice(&index).map_err(|error| failed(error.into()))?;
    let Some(base) = index.get("renewalInfo").and_then(serde_json::Value::as_str) else {
        return Ok(None);
    };
    let (headers, body) = match https.get(&format!("{base}/{certificate}")).await {
        Err(error) if is_unknown(&error) => return Ok(None),
        answer => answer.map_err(failed)?,
    };
    let info: RenewalInfo = serde_json::from_slice(&body).map_err(|error| failed(error.into()))?;
    let look_again = retry_after(&headers).unwrap_or(LOOK_AGAIN);
    let look_again = look_again.clamp(LOOK_AGAIN_BOUNDS.0, LOOK_AGAIN_BOUNDS.1);
    let (start, end) = (info.suggested_window.start, info.suggested_window.end);
    if end <= start {
        let words = format!(
            "the certificate authority gave a time to renew that ends before it starts ({} to {})",
            quoted(&start.to_string()),
            quoted(&end.to_string())
        );
        return Err(AcmeError::new(ErrorKind::Unreachable, words));
    }
    let millis = |at: time::OffsetDateTime| {
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
    };
    Ok(Some(RenewalWindow {
        start_ms: millis(start),
        end_ms: millis(end),
        look_again_ms: u64::try_from(look_again.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// Whether the authority answered that it knows no such certificate.
fn is_unknown(error: &Error) -> bool {
    let Error::Other(other) = error else { return false };
    match other.downcast_ref::<Trouble>() {
        Some(Trouble::Refusal(refusal)) => matches!(refusal.status, 400 | 404 | 410),
        Some(Trouble::Unreached { .. }) | None => false,
    }
}
