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
        Self { kind: kind(code, status), code: code.to_owned(), message: steady(message).to_owned() }
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

/// A message without what differs from one answer to the next, so that one cause is one sentence. The encoded part is for
/// `aws sts decode-authorization-message` and holds a time.
fn steady(message: &str) -> &str {
    message.split_once(" Encoded authorization failure message:").map_or(message, |(before, _)| before)
}

impl Failure {
    /// The way out for a role that may not make a call. `called`: EC2's name of it. EC2 says which action lacks: to create
    /// an interface with its tags takes another one, for example.
    pub fn permission(&self, called: &str) -> String {
        let named = self.message.split_once("perform: ec2:").map_or("", |(_, rest)| rest);
        let action = named.split(|c: char| !c.is_ascii_alphanumeric()).next().filter(|action| !action.is_empty());
        let action = action.unwrap_or(called);
        let closed = if action.ends_with("TrunkInterface") {
            " (AWS has not opened this call to every account: then use --provision=observe)"
        } else {
            ""
        };
        format!("give the agent's role the IAM action ec2:{action}{closed}")
    }
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

    #[test]
    fn one_missing_permission_is_one_sentence_however_often_it_is_told() {
        let told = |encoded: &str| {
            let message = format!("You are not authorized. Encoded authorization failure message: {encoded}");
            Failure::of("UnauthorizedOperation", 403, &message).to_string()
        };
        assert_eq!(told("Yk3"), "UnauthorizedOperation: You are not authorized.");
        assert_eq!(told("Yk3"), told("9xQ"));
    }

    #[test]
    fn the_action_that_lacks_is_the_one_that_ec2_names() {
        let way_out =
            |message: &str| Failure::of("UnauthorizedOperation", 403, message).permission("CreateNetworkInterface");
        assert!(way_out("No.").ends_with("the IAM action ec2:CreateNetworkInterface"));
        let named = "User: arn:aws:sts::1:assumed-role/r/i is not authorized to perform: ec2:CreateTags on resource: x";
        assert!(way_out(named).ends_with("the IAM action ec2:CreateTags"));
    }
}
