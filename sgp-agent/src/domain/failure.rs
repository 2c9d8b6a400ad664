//! What a failed call means: when to try again, and what to tell (facts 2.12).

use std::fmt;

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub kind: FailureKind,
    /// EC2's error code; empty for a call that never got an answer.
    pub code: String,
    /// What was said.
    pub message: String,
}

/// What a failure means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// Too many calls of this kind from this account: all of its kind slow down.
    Throttled,
    /// 5xx, a timeout, no connection: the call may even have worked.
    Unavailable,
    /// The object is known to exist and EC2 does not show it yet, or it is still on its way to another state.
    NotYet,
    /// The role lacks a permission: the same call for another object fails alike.
    Unauthorized,
    /// EC2 does not do it as asked: only a change in the world helps.
    Refused,
}

impl Failure {
    /// What an answer with an error code means. `status`: of HTTP.
    pub fn of(code: &str, status: u16, message: &str) -> Self {
        Self { kind: kind(code, status), code: code.to_owned(), message: message.to_owned() }
    }

    /// A call without an answer.
    pub fn unanswered(message: &str) -> Self {
        Self { kind: FailureKind::Unavailable, code: String::new(), message: message.to_owned() }
    }

    /// Whether the object of the call is gone: what undoing wants.
    pub fn is_gone(&self) -> bool {
        is_gone(&self.code)
    }
}

/// What EC2 calls an object that is not there, in its several spellings.
pub fn is_gone(code: &str) -> bool {
    code.ends_with(".NotFound") || code.ends_with("NotFound") || code == "Gateway.NotAttached"
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            "" => f.write_str(&self.message),
            code => write!(f, "{code}: {}", self.message),
        }
    }
}

fn kind(code: &str, status: u16) -> FailureKind {
    match code {
        "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "EC2ThrottledException" => {
            FailureKind::Throttled
        }
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "OperationNotPermitted"
        | "AuthFailure" => FailureKind::Unauthorized,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" | "RequestTimeout" => {
            FailureKind::Unavailable
        }
        "InvalidNetworkInterfaceID.NotFound"
        | "InvalidAttachmentID.NotFound"
        | "InvalidNetworkInterface.InUse"
        | "IncorrectState"
        | "IdempotentParameterMismatch" => FailureKind::NotYet,
        _ if status >= 500 => FailureKind::Unavailable,
        _ => FailureKind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_errors_are_told_apart() {
        for (code, status, expected) in [
            ("RequestLimitExceeded", 503, FailureKind::Throttled),
            ("UnauthorizedOperation", 403, FailureKind::Unauthorized),
            ("InternalError", 500, FailureKind::Unavailable),
            ("Weird", 502, FailureKind::Unavailable),
            ("InvalidNetworkInterfaceID.NotFound", 400, FailureKind::NotYet),
            ("InvalidSecurityGroupID.NotFound", 400, FailureKind::Refused),
            ("InvalidGroup.NotFound", 400, FailureKind::Refused),
            ("InvalidParameterValue", 400, FailureKind::Refused),
            ("InsufficientFreeAddressesInSubnet", 400, FailureKind::Refused),
        ] {
            assert_eq!(Failure::of(code, status, "").kind, expected, "{code}");
        }
    }
}
