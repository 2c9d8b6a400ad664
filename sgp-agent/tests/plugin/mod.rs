//! A node of network namespaces, the real CNI plugin, and an agent that answers it as the test says.
#![allow(dead_code, reason = "each test binary uses its part of this")]

mod pod;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use sgp_agent::domain::wiring::Mode;
use sgp_agent::protocol::{Request, Response, Wiring};

pub(crate) use pod::{Cluster, Pod};

/// Tests of one binary run side by side.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A node: `eth0` to the VPC, and the branches `vlan.eth.1` to `.3`.
pub(crate) struct Node {
    name: String,
    dir: PathBuf,
    branch_link: &'static str,
    /// What the agent answers about any pod.
    answer: Arc<Mutex<Option<Wiring>>>,
}

const TRUNK_MAC: &str = "06:00:00:00:00:99";

impl Node {
    /// Makes it; `None` where root tests are not asked for.
    pub(crate) fn start() -> Option<Self> {
        if std::env::var_os("SGP_TEST_ROOT").is_none_or(|value| value != "1") {
            println!("skipped: needs root, run `cargo xtask test`");
            return None;
        }
        let name = format!("sgpw{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).expect("a directory for the socket");
        let mut node = Self { name, dir, branch_link: "provided", answer: Arc::default() };
        for space in ["node", "vpc"] {
            ok(Command::new("ip").args(["netns", "add", &node.space(space)]));
            node.ip_in(space, "link set lo up");
        }
        node.ip(&format!("link add eth0 type veth peer name node netns {}", node.space("vpc")));
        for words in [
            "addr add 10.0.0.5/24 dev eth0",
            "addr add 2001:db8::5/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.0.0.1",
            "-6 route add default via 2001:db8::1 metric 1024",
        ] {
            node.ip(words);
        }
        for key in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            ok(node.within("node", "sysctl").args(["-qw", &format!("net.{key}=1")]));
        }
        node.ip_in("vpc", "link set node up");
        node.branches();
        node.settle();
        node.listen();
        Some(node)
    }

    /// A veth learns by and by that its other end is up; routes say so.
    fn settle(&self) {
        for _ in 0..500 {
            if !self.ip("route").contains("linkdown") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the node's primary interface has no carrier");
    }

    /// VLAN links of a trunk, where the kernel has them; else links that somebody provides.
    fn branches(&mut self) {
        self.ip(&format!("link add eth1 address {TRUNK_MAC} type veth peer name trunk netns {}", self.space("vpc")));
        self.ip("link set eth1 up");
        self.ip_in("vpc", "link set trunk up");
        if self.try_ip("link add link eth1 name probe type vlan id 9").status.success() {
            self.ip("link del probe");
            self.branch_link = "vlan";
            return;
        }
        for number in 1..=3 {
            self.ip(&format!("link add vlan.eth.{number} type veth peer name b{number} netns {}", self.space("vpc")));
            self.ip_in("vpc", &format!("link set b{number} up"));
        }
    }

    /// Answers the plugin: the wiring of the moment, and that everything is enforced.
    fn listen(&self) {
        let listener = UnixListener::bind(self.dir.join("agent.sock")).expect("a socket");
        let answer = Arc::clone(&self.answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a request");
                let wiring = answer.lock().expect("no test panicked").clone();
                let response = match serde_json::from_str(&line).expect("the protocol") {
                    Request::Wiring { .. } => wiring.map_or(Response::Other, |wiring| Response::Branch { wiring }),
                    Request::Enforce { .. } => Response::Enforced,
                    Request::Released { .. } | Request::Status => Response::Ok,
                };
                writeln!(stream, "{}", serde_json::to_string(&response).expect("JSON")).expect("the plugin listens");
            }
        });
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    pub(crate) fn space(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    /// ADD in the layout of this mode; gives its result.
    pub(crate) fn add(&self, pod: &Pod, mode: Mode, cluster: Cluster) -> Value {
        let space = self.space(pod.uid);
        if !PathBuf::from(format!("/run/netns/{space}")).exists() {
            ok(Command::new("ip").args(["netns", "add", &space]));
        }
        *self.answer.lock().expect("no test panicked") = Some(pod.wiring(mode, cluster));
        let output = self.call("ADD", pod, &Value::Null);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "ADD: {text} {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).expect("a result")
    }

    /// DEL, with or without what ADD gave.
    pub(crate) fn del(&self, pod: &Pod, result: &Value) {
        let output = self.call("DEL", pod, result);
        assert!(output.status.success(), "DEL: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// The pod's own namespace goes, as a runtime may do before DEL.
    pub(crate) fn forget(&self, pod: &Pod) {
        let before = self.hosts().len();
        ok(Command::new("ip").args(["netns", "del", &self.space(pod.uid)]));
        // The kernel takes a namespace apart by and by.
        for _ in 0..500 {
            if self.hosts().len() < before {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the host veth outlives its pod's namespace");
    }

    /// Names of the host veths.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let links = self.ip("-o link");
        let names = links.lines().filter_map(|line| line.split([' ', '@']).nth(1));
        names.filter(|name| name.len() > 13 && !name.starts_with("vlan.")).map(str::to_owned).collect()
    }

    pub(crate) fn call(&self, verb: &str, pod: &Pod, result: &Value) -> Output {
        let mut configuration = json!({
            "cniVersion": "1.0.0", "name": "test", "type": "sgp-cni", "branchLink": self.branch_link,
            "agentSocket": self.dir.join("agent.sock"),
        });
        if !result.is_null() {
            configuration["prevResult"] = result.clone();
        }
        let netns = format!("/run/netns/{}", self.space(pod.uid));
        let there = PathBuf::from(&netns).exists();
        let args = format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={};K8S_POD_UID={}", pod.name, pod.uid);
        let mut plugin = self.within("node", env!("CARGO_BIN_EXE_sgp-agent"));
        plugin.arg("cni").env("CNI_COMMAND", verb).env("CNI_IFNAME", "eth0").env("CNI_CONTAINERID", pod.uid);
        plugin.env("CNI_NETNS", if there { &netns } else { "" }).env("CNI_ARGS", args).env("CNI_PATH", "/none");
        let mut child = plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.as_mut().expect("the plugin starts");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(configuration.to_string().as_bytes()).expect("the plugin reads");
        drop(stdin);
        let status = child.wait().expect("the plugin ends");
        let read = |pipe: Option<&mut dyn std::io::Read>| {
            let mut bytes = Vec::new();
            pipe.expect("a pipe").read_to_end(&mut bytes).expect("its words");
            bytes
        };
        let stdout = read(child.stdout.as_mut().map(|pipe| pipe as &mut dyn std::io::Read));
        let stderr = read(child.stderr.as_mut().map(|pipe| pipe as &mut dyn std::io::Read));
        Output { status, stdout, stderr }
    }

    pub(crate) fn within(&self, space: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.space(space))).arg(program);
        command
    }

    /// Runs on a thread that has joined the node's namespace.
    pub(crate) fn on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        let namespace = fs::File::open(format!("/run/netns/{}", self.space("node"))).expect("the node's namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("root may join it");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(work())
            });
            thread.join().expect("the thread ends")
        })
    }

    pub(crate) fn try_ip(&self, words: &str) -> Output {
        self.within("node", "ip").args(words.split(' ')).output().expect("ip runs")
    }

    /// `ip` on the node; gives its words, without the blanks at the ends of lines.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.ip_in("node", words)
    }

    pub(crate) fn ip_in(&self, space: &str, words: &str) -> String {
        let text = ok(self.within(space, "ip").args(words.split(' ')));
        text.lines().map(|line| line.trim_end().replace('\t', " ")).collect::<Vec<_>>().join("\n")
    }

    /// What the agent does on a node of strict pods, by `ip`.
    pub(crate) fn move_local(&self, mode: Mode, cluster: Cluster) {
        if mode == Mode::Strict {
            let family = if cluster == Cluster::V4 { "-4" } else { "-6" };
            self.ip(&format!("{family} rule add from all lookup local pref 20"));
            self.ip(&format!("{family} rule del from all lookup local pref 0"));
        }
    }

    /// Everything that wiring leaves on a node: rules, and routes but those of `local` and of branches that are down.
    pub(crate) fn picture(&self) -> String {
        let parts = ["rule", "-6 rule", "route show table main", "-6 route show table main"];
        let tables = ["101", "102", "103"].map(|table| self.table(table));
        format!("{}\n{}\n{:?}", parts.map(|words| self.ip(words)).join("\n"), tables.join("\n"), self.hosts())
    }

    /// Routes of a table, of both families; a table without routes does not exist.
    pub(crate) fn table(&self, table: &str) -> String {
        let of = |family: &str| {
            let output = self.try_ip(&format!("{family} route show table {table}"));
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .map(|line| format!("{}\n", line.trim_end()))
                .collect::<String>()
        };
        format!("{}{}", of("-4"), of("-6")).trim_end().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let spaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        for space in spaces.filter_map(|entry| entry.file_name().into_string().ok()) {
            if space.starts_with(&format!("{}-", self.name)) {
                drop(Command::new("ip").args(["netns", "del", &space]).status());
            }
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Runs a command that must succeed.
pub(crate) fn ok(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
