//! AdmissionReview, `admission.k8s.io/v1`: the envelope.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Operation, Question, Verdict};

/// Group and version of the only form that is spoken.
const VERSION: &str = "admission.k8s.io/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    user_info: UserInfo,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
}

/// Reads a question.
///
/// # Errors
/// A sentence that says what is wrong with the review.
pub fn question(body: &[u8]) -> Result<Question, String> {
    let mut text = serde_json::Deserializer::from_slice(body);
    let review: Review = serde_path_to_error::deserialize(&mut text)
        .map_err(|error| format!("this is no AdmissionReview of {VERSION}: {error}"))?;
    if review.api_version != VERSION {
        return Err(format!("the AdmissionReview is of {}, expected {VERSION}", review.api_version));
    }
    let request = review.request;
    let operation = match request.operation.as_str() {
        "CREATE" => Operation::Create,
        "UPDATE" => Operation::Update,
        _ => Operation::Other,
    };
    Ok(Question {
        uid: request.uid,
        operation,
        user: request.user_info.username,
        namespace: request.namespace,
        object: request.object,
        old_object: request.old_object,
    })
}

/// The answer as the API server reads it. `encode`: base64 of the patch's text, standard alphabet with padding.
pub fn answer(uid: &str, answer: &Answer, encode: impl Fn(&[u8]) -> String) -> Value {
    let mut response = json!({"uid": uid, "allowed": answer.verdict == Verdict::Allowed});
    if !answer.message.is_empty() {
        let code = if answer.verdict == Verdict::Allowed { 200 } else { 403 };
        response["status"] = json!({"code": code, "message": answer.message});
    }
    if !answer.patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(encode(Value::from(answer.patch.clone()).to_string().as_bytes()));
    }
    json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})
}
