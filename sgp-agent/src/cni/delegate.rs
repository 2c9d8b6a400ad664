//! Hands a call on to the plugin that serves pods without a branch.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::config::Call;
use super::outcome::{Failure, INVALID_CONFIG};

/// Runs the delegate with our own environment; gives its result, or passes its error on.
pub(super) fn run(call: &Call, command: &str) -> Result<Value, Failure> {
    let missing = || Failure::new(INVALID_CONFIG, "this pod has no branch, and the configuration has no \"delegate\"");
    let delegate = call.config.delegate.as_ref().ok_or_else(missing)?;
    let plugin = plugin(call, delegate)?;
    let (success, answer) = execute(&plugin, command, &configuration(call, delegate)).map_err(Failure::internal)?;
    if success { Ok(answer) } else { Err(Failure::of_delegate(answer)) }
}

fn plugin(call: &Call, delegate: &Map<String, Value>) -> Result<PathBuf, Failure> {
    let name = delegate.get("type").and_then(Value::as_str).unwrap_or_default();
    let plain = !name.is_empty() && !name.contains('/');
    let found = call.path.iter().map(|dir| dir.join(name)).find(|path| plain && path.is_file());
    found.ok_or_else(|| {
        Failure::new(INVALID_CONFIG, format!("the delegate {name:?} is in none of CNI_PATH {:?}", call.path))
    })
}

/// The delegate's own configuration with what it inherits from ours.
fn configuration(call: &Call, delegate: &Map<String, Value>) -> Value {
    let mut all = delegate.clone();
    for key in ["cniVersion", "name", "runtimeConfig", "prevResult"] {
        if let Some(value) = call.raw.get(key) {
            all.insert(key.to_owned(), value.clone());
        }
    }
    Value::Object(all)
}

fn execute(plugin: &PathBuf, command: &str, configuration: &Value) -> Result<(bool, Value)> {
    let context = || format!("running the delegate {}", plugin.display());
    let mut child = Command::new(plugin)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(context)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(configuration.to_string().as_bytes()).with_context(context)?;
    }
    let output = child.wait_with_output().with_context(context)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer =
        if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).with_context(context)? };
    Ok((output.status.success(), answer))
}
