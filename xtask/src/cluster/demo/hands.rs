//! What a person at a terminal would use: kubectl, aws, a shell in a pod, the agent's commands, bpftool.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Tools of one cluster, each with the cluster's environment.
#[derive(Clone, Debug)]
pub(crate) struct Hands {
    /// Name of the cluster.
    pub(crate) cluster: String,
    /// KUBECONFIG and AWS variables, as `dev up` prints them.
    pub(crate) env: Vec<(String, String)>,
    /// Directory of kubectl.
    pub(crate) kube_bin: PathBuf,
    /// Python environment that holds the AWS command line.
    pub(crate) venv: PathBuf,
    /// The agent's binary.
    pub(crate) agent: PathBuf,
    /// `--validate=false` where the API server is too old for the client's validation.
    pub(crate) kubectl_apply: Vec<String>,
}

/// What a command did.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Exit status, or -1 if a signal ended it.
    pub(crate) status: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Outcome {
    /// Standard output of a command that had to succeed.
    ///
    /// # Errors
    /// With the command's own words, where it failed.
    pub(crate) fn ok(self) -> Result<String> {
        if self.status != 0 {
            bail!("exit status {}: {}", self.status, self.words());
        }
        Ok(self.stdout.trim_end().to_owned())
    }

    /// Everything it said.
    pub(crate) fn words(&self) -> String {
        format!("{}\n{}", self.stdout.trim_end(), self.stderr.trim_end()).trim().to_owned()
    }
}

impl Hands {
    /// Runs kubectl.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<Outcome> {
        self.run(Command::new(self.kube_bin.join("kubectl")).args(args), None)
    }

    /// `kubectl apply -f -` with this YAML.
    pub(crate) fn apply(&self, yaml: &str) -> Result<Outcome> {
        let mut command = Command::new(self.kube_bin.join("kubectl"));
        self.run(command.args(["apply", "-f", "-"]).args(&self.kubectl_apply), Some(yaml))
    }

    /// Asks the API server what it would say to this YAML.
    pub(crate) fn apply_dry(&self, yaml: &str) -> Result<Outcome> {
        let mut command = Command::new(self.kube_bin.join("kubectl"));
        command.args(["apply", "--dry-run=server", "-f", "-"]).args(&self.kubectl_apply);
        self.run(&mut command, Some(yaml))
    }

    /// Runs the AWS command line.
    pub(crate) fn aws(&self, args: &[&str]) -> Result<Outcome> {
        self.run(Command::new(self.venv.join("bin/aws")).args(args), None)
    }

    /// Runs `aws ec2 …` and gives its output as text.
    ///
    /// # Errors
    /// With EC2's own words, where it refused.
    pub(crate) fn ec2(&self, args: &[&str]) -> Result<String> {
        let all: Vec<&str> = ["ec2"].iter().chain(args).chain(&["--output", "text"]).copied().collect();
        self.aws(&all)?.ok()
    }

    /// Runs a command in a pod, through `dev exec`.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Outcome> {
        self.run(&mut self.inside(namespace, pod, command)?, None)
    }

    /// Runs one of the agent's own commands.
    pub(crate) fn agent(&self, args: &[&str]) -> Result<Outcome> {
        self.run(Command::new(&self.agent).args(args), None)
    }

    /// Runs bpftool.
    pub(crate) fn bpftool(&self, args: &[&str]) -> Result<Outcome> {
        self.run(Command::new("bpftool").args(args), None)
    }

    /// Runs any command to its end.
    pub(crate) fn finish(&self, command: &mut Command) -> Result<Outcome> {
        self.run(command, None)
    }

    /// Likewise, with a text on its standard input.
    pub(crate) fn finish_with(&self, command: &mut Command, input: &str) -> Result<Outcome> {
        self.run(command, Some(input))
    }

    /// Starts a command in a pod and does not wait for it.
    pub(crate) fn start(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<std::process::Child> {
        let mut run = self.inside(namespace, pod, command)?;
        run.envs(self.env.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        run.spawn().context("starting a command in a pod")
    }

    fn inside(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Command> {
        let own = std::env::current_exe().context("finding sgp-dev's own binary")?;
        let mut run = Command::new(own);
        run.args(["dev", "exec", "--cluster", &self.cluster, "-n", namespace, pod, "--"]).args(command);
        Ok(run)
    }

    fn run(&self, command: &mut Command, input: Option<&str>) -> Result<Outcome> {
        let shown = format!("running {:?}", command.get_program());
        command.envs(self.env.iter().cloned());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| shown.clone())?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            std::io::Write::write_all(&mut stdin, text.as_bytes()).with_context(|| shown.clone())?;
        }
        let output = child.wait_with_output().context(shown)?;
        Ok(Outcome {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// Asks again until the answer is there; fails with the last reason once time is up.
pub(crate) fn until<T>(limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if begun.elapsed() > limit => {
                return Err(error.context(format!("still so after {} s", limit.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
