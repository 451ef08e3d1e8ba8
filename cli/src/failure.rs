//! Why a command failed, and the exit code that says so.

use std::process::ExitCode;

use mill_core::api::{ApiError, ErrorCode};
use serde_json::json;

/// A command that was not done.
#[derive(Debug)]
pub enum Failure {
    /// It failed: exit code 1. The text is printed after `error: `.
    Failed(String),
    /// All that there is to say was printed: exit code 1.
    Said,
    /// The arguments make no sense together: exit code 2.
    Usage(String),
    /// Nobody answered: exit code 3.
    Unreachable(String),
    /// The cluster refused.
    Refused(ApiError),
}

impl Failure {
    /// An error with all its causes.
    pub fn of(error: &dyn std::error::Error) -> Failure {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Failure::Failed(text)
    }

    /// Prints it, for programs as a document as well, and says how to exit.
    pub fn report(self, json: bool) -> ExitCode {
        let plain = |code: &str, text: &str| json!({ "code": code, "message": text });
        let (text, document, code) = match self {
            Failure::Said => return ExitCode::from(1),
            Failure::Failed(text) => (text.clone(), plain("failed", &text), 1),
            Failure::Usage(text) => (text.clone(), plain("usage", &text), 2),
            Failure::Unreachable(text) => (text.clone(), plain("unreachable", &text), 3),
            Failure::Refused(error) => {
                let code = if error.code == ErrorCode::NoLeader { 3 } else { 1 };
                (error.to_string(), json!(error), code)
            }
        };
        if json {
            println!("{}", json!({ "error": document }));
        }
        eprintln!("error: {text}");
        ExitCode::from(code)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Refused(error)
    }
}
