//! AWS's own cases (facts 7.1), put to us: case, expected, seen.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use sgp_agent::domain::admission::{
    AWS_WRITERS, Answer, Matched, Operation, Question, Verdict, answer, guard, our_writer, pod_of, question,
    resource_injection,
};
use sgp_agent::domain::annotation::POD_ENI;
use sgp_agent::domain::groups::GroupSet;

const LIMITS: &str = "/spec/containers/0/resources/limits";
const REQUESTS: &str = "/spec/containers/0/resources/requests";
const KEY: &str = "vpc.amazonaws.com~1pod-eni";

fn asked(operation: Operation, object: Value, old_object: Value, user: &str) -> Question {
    let (uid, namespace, user) = ("u".to_owned(), "ns".to_owned(), user.to_owned());
    Question { uid, operation, user, namespace, object, old_object }
}

fn groups(ids: &[&str]) -> Matched {
    Ok(GroupSet::of(ids.iter().map(|id| (*id).to_owned())))
}

fn annotated(annotations: &[(&str, &str)]) -> Value {
    json!({"metadata": {"annotations": annotations.iter().copied().collect::<BTreeMap<_, _>>()}})
}

/// A line of the table: verdict, message and patch in one text.
fn told(answer: &Answer) -> String {
    let word = if answer.verdict == Verdict::Allowed { "allow" } else { "deny" };
    let patch = if answer.patch.is_empty() { String::new() } else { Value::from(answer.patch.clone()).to_string() };
    [word, answer.message.as_str(), patch.as_str()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" | ")
}

/// Prints the whole table before it says what of it is wrong.
fn hold(rows: Vec<(&str, String, Answer)>) {
    println!("{:<66} {:<9} expected = seen", "case", "");
    let mut wrong = Vec::new();
    for (case, expected, answer) in rows {
        let seen = told(&answer);
        println!("{case:<66} {:<9} {seen}", if seen == expected { "as there" } else { "OTHERWISE" });
        if seen != expected {
            wrong.push(format!("{case}: expected {expected}, seen {seen}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_mutating_webhook_answers_as_awss() {
    let linux = |resources: Value| json!({"metadata": {}, "spec": {"containers": [resources, {}]}});
    let bare = linux(json!({"name": "c"}));
    let full = linux(json!({"resources": {"limits": {"cpu": "1", POD_ENI: "7"}, "requests": {"cpu": "1"}}}));
    let fargate = |annotations: Value| {
        json!({"metadata": {"labels": {"eks.amazonaws.com/fargate-profile": "p"}, "annotations": annotations},
               "spec": {"containers": [{}]}})
    };
    let windows = |key: &str| json!({"metadata": {}, "spec": {"nodeSelector": {key: "windows"}, "containers": [{}]}});
    let host = json!({"spec": {"hostNetwork": true, "containers": [{}]}});
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    let patch = |steps: &[Value]| format!("allow | {}", Value::from(steps.to_vec()));
    let one = json!({POD_ENI: "1"});
    let mutate = |pod: &Value, matched: Matched| {
        resource_injection(&asked(Operation::Create, pod.clone(), Value::Null, "u"), &matched)
    };
    let (none, two, failed) = (groups(&[]), groups(&["sg-1", "sg-2"]), Err::<GroupSet, _>("boom".to_owned()));
    let denied = "deny | Failed to get Matching SGP for Pods, rejecting event, error boom";
    let no_match = "allow | Pod didn't match any SGP";
    let fargate_path = "/metadata/annotations/fargate.amazonaws.com~1pod-sg";
    let mine = json!({"fargate.amazonaws.com/pod-sg": "sg-mine"});
    let strip = format!("{no_match} | {}", json!([{"op": "remove", "path": fargate_path}]));
    let not_here = "allow | Security groups for pods are for Linux pods";
    hold(vec![
        (
            "Linux, match, no resource maps",
            patch(&[add("/spec/containers/0/resources", json!({})), add(LIMITS, one.clone()), add(REQUESTS, one)]),
            mutate(&bare, two.clone()),
        ),
        (
            "Linux, match, maps there, a value of the user's",
            patch(&[add(&format!("{LIMITS}/{KEY}"), json!("1")), add(&format!("{REQUESTS}/{KEY}"), json!("1"))]),
            mutate(&full, two.clone()),
        ),
        ("Linux, no match", no_match.into(), mutate(&bare, none.clone())),
        ("Linux, matching fails", denied.into(), mutate(&bare, failed.clone())),
        ("Fargate, no match", no_match.into(), mutate(&fargate(Value::Null), none.clone())),
        ("Fargate, no match, annotation of the user's", strip, mutate(&fargate(mine.clone()), none.clone())),
        (
            "Fargate, match",
            patch(&[add("/metadata/annotations", json!({"fargate.amazonaws.com/pod-sg": "sg-1,sg-2"}))]),
            mutate(&fargate(Value::Null), two.clone()),
        ),
        (
            "Fargate, match, annotation of the user's",
            patch(&[add(fargate_path, json!("sg-1,sg-2"))]),
            mutate(&fargate(mine), two.clone()),
        ),
        ("Fargate, matching fails", denied.into(), mutate(&fargate(Value::Null), failed.clone())),
        ("hostNetwork", "allow | SGP not supported on Pod running on HostNetwork".into(), mutate(&host, two.clone())),
        ("Windows", not_here.into(), mutate(&windows("kubernetes.io/os"), two.clone())),
        ("Windows, old key", not_here.into(), mutate(&windows("beta.kubernetes.io/os"), failed)),
        ("an update", "allow".into(), resource_injection(&asked(Operation::Update, bare.clone(), bare, "u"), &two)),
    ]);
}

#[test]
fn the_validating_webhook_answers_as_awss() {
    let ours = our_writer("kube-system");
    let writers: Vec<String> = AWS_WRITERS.iter().chain([&ours.as_str()]).map(|name| (*name).to_owned()).collect();
    let (plain, one, two) = (annotated(&[]), annotated(&[(POD_ENI, "a")]), annotated(&[(POD_ENI, "b")]));
    let fargate = annotated(&[("fargate.amazonaws.com/pod-sg", "sg-1")]);
    let judge = |operation, new: &Value, old: &Value, user: &str| {
        guard(&asked(operation, new.clone(), old.clone(), user), &writers)
    };
    let update = |new: &Value, old: &Value, user: &str| judge(Operation::Update, new, old, user);
    let stranger = "deny | annotation is not set by vpc-resource-controller";
    let [rc, account, old_account] = AWS_WRITERS;
    hold(vec![
        ("create without", "allow".into(), judge(Operation::Create, &plain, &Value::Null, "u")),
        (
            "create with",
            "deny | pod cannot be created with vpc.amazonaws.com/pod-eni annotation".into(),
            judge(Operation::Create, &one, &Value::Null, &ours),
        ),
        ("update by AWS's user", "allow".into(), update(&one, &plain, rc)),
        ("update by AWS's ServiceAccount", "allow".into(), update(&one, &plain, account)),
        ("update by AWS's old ServiceAccount", "allow".into(), update(&one, &plain, old_account)),
        ("update by our own ServiceAccount", "allow".into(), update(&one, &plain, &ours)),
        ("added by a stranger", stranger.into(), update(&one, &plain, "mallory")),
        ("changed by a stranger", stranger.into(), update(&two, &one, "mallory")),
        ("deleted by a stranger", stranger.into(), update(&plain, &one, "mallory")),
        ("something else changed by a stranger", "allow".into(), update(&one, &one, "mallory")),
        (
            "Fargate's key changed, by anybody",
            "deny | annotation is not set by mutating webhook".into(),
            update(&fargate, &plain, &ours),
        ),
        ("deletion", "allow".into(), judge(Operation::Other, &Value::Null, &one, "mallory")),
    ]);
}

#[test]
fn a_pod_without_namespace_is_of_the_requests_and_without_account_of_the_default_one() {
    let object = json!({"metadata": {"generateName": "p-", "labels": {"a": "b"}}, "spec": {}});
    let pod = pod_of(&asked(Operation::Create, object, Value::Null, "u"));
    assert_eq!((pod.namespace.as_str(), pod.service_account.as_str(), pod.name.as_str()), ("ns", "default", "p-"));
    assert_eq!(pod.labels.get("a").map(String::as_str), Some("b"));
}

#[test]
fn a_review_is_read_and_answered_in_its_own_form() {
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "operation": "CREATE", "namespace": "ns", "userInfo": {"username": "admin"}, "object": {"spec": {}}
    }});
    let question = question(review.to_string().as_bytes()).expect("a review");
    assert_eq!(
        (question.uid.as_str(), question.operation, question.user.as_str()),
        ("u-1", Operation::Create, "admin")
    );
    let patched = Answer { patch: vec![json!({"op": "remove"})], ..Answer::allowed("") };
    let said = answer("u-1", &patched, |bytes| format!("{} bytes", bytes.len()));
    assert_eq!(said["response"]["patch"], "[{\"op\":\"remove\"}]".len().to_string() + " bytes");
    assert_eq!((&said["response"]["uid"], &said["response"]["patchType"]), (&json!("u-1"), &json!("JSONPatch")));
    let denied = answer("u-1", &Answer::denied("no"), |_| String::new());
    assert_eq!(denied["response"], json!({"uid": "u-1", "allowed": false, "status": {"code": 403, "message": "no"}}));
}

#[test]
fn what_is_no_review_is_told_by_its_key() {
    for (body, word) in [
        (&b"{"[..], "EOF"),
        (&br#"{"apiVersion": "admission.k8s.io/v1", "request": {"uid": 1}}"#[..], "request.uid"),
        (
            &br#"{"apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "u", "operation": "CREATE", "userInfo": {}}}"#[..],
            "v1beta1",
        ),
    ] {
        let error = question(body).expect_err("no review");
        assert!(error.contains(word), "{error}");
    }
}
