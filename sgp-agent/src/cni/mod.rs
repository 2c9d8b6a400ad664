//! The CNI plugin (CNI specification 1.1.0): wires pods with a branch, delegates all others.
//!
//! Architecture invariant: nothing of a pod is up or routed before the agent has said that it is enforced.

mod agent;
mod answer;
mod config;
mod delegate;
mod find;
mod inside;
mod outcome;
mod wiring;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::protocol::{Request, Response};
use config::{Call, SUPPORTED, Verb};
use outcome::{Failure, TRY_LATER, UNAVAILABLE};

/// Reads the call from environment and standard input, acts, and prints a result or an error object.
pub fn main() -> ExitCode {
    match act() {
        Ok(Some(result)) => {
            // Where the runtime does not listen any more there is nobody left to tell.
            drop(writeln!(std::io::stdout(), "{result}"));
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{}", failure.to_json());
            ExitCode::FAILURE
        }
    }
}

fn act() -> Result<Option<Value>, Failure> {
    let call = Call::read()?;
    match call.verb {
        Verb::Version => Ok(Some(json!({"cniVersion": "1.1.0", "supportedVersions": SUPPORTED}))),
        Verb::Add => block_on(add(&call))?.map(Some),
        Verb::Del => block_on(del(&call))?,
        Verb::Check => block_on(check(&call))?,
        Verb::Status => status(&call),
        // What a pod left behind is found by the agent's own loop and by DEL; nothing is kept by this plugin.
        Verb::Gc => Ok(None),
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the async runtime").map_err(Failure::internal)?;
    Ok(runtime.block_on(work))
}

async fn add(call: &Call) -> Result<Value, Failure> {
    let Some(pod) = call.pod.clone() else { return delegate::run(call, "ADD") };
    let name = format!("{}/{}", pod.namespace, pod.name);
    let timeout_seconds = call.config.add_timeout_seconds;
    let answer = agent::ask(&call.config.agent_socket, &Request::Wiring { pod, timeout_seconds });
    let wiring = match answer {
        Ok(Response::Branch { wiring }) => wiring,
        Ok(Response::Other) => return delegate::run(call, "ADD"),
        Ok(Response::Error { message }) => return Err(Failure::new(TRY_LATER, message)),
        Ok(other) => return Err(Failure::new(TRY_LATER, format!("the agent answered {other:?} for pod {name}"))),
        Err(error) => return Err(Failure::new(TRY_LATER, format!("pod {name} waits: {error:#}"))),
    };
    let wired = wiring::wire(call, &wiring).await;
    wired.with_context(|| format!("wiring pod {name} to {}", wiring.interface_id)).map_err(Failure::internal)
}

/// Needs no agent. Where nothing of ours is found, the pod may be the delegate's.
async fn del(call: &Call) -> Result<Option<Value>, Failure> {
    let found = find::find(call, find::Uid::Same).await.map_err(Failure::internal)?;
    if let find::Found::Ours(ours) = &found {
        wiring::unwire(call, ours).await.map_err(Failure::internal)?;
        if let Some(interface_id) = ours.interface_id.clone() {
            // The agent looks by itself too; this only makes it soon.
            drop(agent::ask(&call.config.agent_socket, &Request::Released { interface_id }));
        }
    }
    match found {
        find::Found::Nothing if call.config.delegate.is_some() => delegate::run(call, "DEL").map(|_| None),
        _ => Ok(None),
    }
}

async fn check(call: &Call) -> Result<Option<Value>, Failure> {
    match find::find(call, find::Uid::Same).await.map_err(Failure::internal)? {
        find::Found::Ours(ours) => wiring::check(call, &ours).await.map(|()| None).map_err(Failure::internal),
        find::Found::Successors => Err(Failure::internal(anyhow::anyhow!("another pod of this name is wired now"))),
        find::Found::Nothing if call.vlan_id().is_some() => {
            Err(Failure::internal(anyhow::anyhow!("the wiring of this pod is gone")))
        }
        find::Found::Nothing => delegate::run(call, "CHECK").map(|_| None),
    }
}

fn status(call: &Call) -> Result<Option<Value>, Failure> {
    match agent::ask(&call.config.agent_socket, &Request::Status) {
        Ok(Response::Ok) => Ok(None),
        Ok(Response::Error { message }) => Err(Failure::new(UNAVAILABLE, message)),
        Ok(other) => Err(Failure::new(UNAVAILABLE, format!("the agent answered {other:?}"))),
        Err(error) => Err(Failure::new(UNAVAILABLE, format!("{error:#}"))),
    }
}
