//! Who may write the annotation a pod is wired from (facts 1.4).

use super::{Answer, FARGATE_GROUPS, Operation, Question, annotation};
use crate::domain::annotation::POD_ENI;

/// The agents' own user, where they are installed in `namespace`.
pub fn our_writer(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:sgp-agent")
}

/// Users of AWS's resource controller, which writes the annotation where agents only observe.
pub const AWS_WRITERS: [&str; 3] = [
    "eks:vpc-resource-controller",
    "system:serviceaccount:kube-system:eks-vpc-resource-controller",
    "system:serviceaccount:kube-system:vpc-resource-controller",
];

/// Judges a pod that is created or changed. `writers`: users who may write the annotation.
pub fn guard(question: &Question, writers: &[String]) -> Answer {
    match question.operation {
        Operation::Create if annotation(&question.object, POD_ENI).is_some() => {
            Answer::denied(&format!("pod cannot be created with {POD_ENI} annotation"))
        }
        Operation::Update => update(question, writers),
        Operation::Create | Operation::Other => Answer::allowed(""),
    }
}

fn update(question: &Question, writers: &[String]) -> Answer {
    let changed = |key| annotation(&question.object, key) != annotation(&question.old_object, key);
    if changed(FARGATE_GROUPS) {
        return Answer::denied("annotation is not set by mutating webhook");
    }
    if changed(POD_ENI) && !writers.contains(&question.user) {
        return Answer::denied("annotation is not set by vpc-resource-controller");
    }
    Answer::allowed("")
}
