//! Errors as the CNI specification wants them.

use serde_json::{Value, json};

/// A variable of the environment is missing or wrong.
pub(super) const INVALID_ENVIRONMENT: u32 = 4;
/// The configuration cannot be read.
pub(super) const DECODING_FAILED: u32 = 6;
/// The configuration says something impossible.
pub(super) const INVALID_CONFIG: u32 = 7;
/// Not possible now; the runtime tries again.
pub(super) const TRY_LATER: u32 = 11;
/// STATUS: no pod can be added now.
pub(super) const UNAVAILABLE: u32 = 50;
/// First of the codes that plugins may give a meaning; ours is "see the message".
const INTERNAL: u32 = 100;

/// An error object.
#[derive(Debug)]
pub(super) struct Failure {
    code: u32,
    message: String,
    /// A delegate's own error object, passed on as it is.
    passed_on: Option<Value>,
}

impl Failure {
    pub(super) fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), passed_on: None }
    }

    pub(super) fn internal(error: anyhow::Error) -> Self {
        Self::new(INTERNAL, format!("{error:#}"))
    }

    pub(super) fn of_delegate(error: Value) -> Self {
        Self { code: INTERNAL, message: String::new(), passed_on: Some(error) }
    }

    pub(super) fn to_json(&self) -> Value {
        let own = || json!({"cniVersion": "1.0.0", "code": self.code, "msg": self.message});
        self.passed_on.clone().unwrap_or_else(own)
    }
}
