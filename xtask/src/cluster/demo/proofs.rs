//! What the tutorial shows once the application stands: who can talk to whom, and why not.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sgp_common::ABI_VERSION;

use super::hands::until;
use super::narrator::Step;
use super::tutorial::{NAMESPACE, PODS, Pod, Tutorial};

const OUTSIDER: &str = include_str!("../../../../deploy/tutorial/outsider.yaml");

/// How soon a change must be in force.
const SOON: Duration = Duration::from_secs(2);

impl Tutorial<'_> {
    pub(super) fn look(&mut self) -> Result<()> {
        let (hands, group, pods) = (self.hands, &self.group, &self.pods);
        let command = format!("aws ec2 describe-network-interfaces --filters Name=group-id,Values={group}");
        self.narrator.step(
            &Step {
                title: "Each pod has a branch network interface of its own",
                command: &command,
                expected: "four interfaces in the group, with the pods' addresses",
            },
            || {
                let filter = format!("Name=group-id,Values={group}");
                let query = "NetworkInterfaces[].[NetworkInterfaceId,PrivateIpAddress]";
                let seen = hands.ec2(&["describe-network-interfaces", "--filters", &filter, "--query", query])?;
                for pod in pods {
                    ensure!(seen.contains(&pod.address), "{} is in no interface of {group}: {seen}", pod.address);
                }
                ensure!(seen.lines().count() == 4, "EC2 lists {seen}");
                Ok(seen)
            },
        )
    }

    pub(super) fn talk(&mut self) -> Result<()> {
        let hands = self.hands;
        for pod in self.pods.clone() {
            let command = format!("kubectl exec {} -- curl my-app   (on {})", pod.name, pod.node);
            self.narrator.step(
                &Step {
                    title: "A pod of the group asks the Service",
                    command: &command,
                    expected: "Welcome to nginx!, three times over, whichever pod answers",
                },
                || {
                    for _ in 0..3 {
                        let page = hands.exec(NAMESPACE, &pod.name, &["curl", "-sS", "-m", "10", "my-app"])?.ok()?;
                        ensure!(page.contains("Welcome to nginx!"), "the page is {page:?}");
                    }
                    Ok("Welcome to nginx!".to_owned())
                },
            )?;
        }
        Ok(())
    }

    pub(super) fn inspect(&mut self) -> Result<()> {
        let hands = self.hands;
        let dir = &self.world.nodes.first().context("the cluster has no node")?.bpf_dir;
        for (map, fields) in [
            ("maps/FLOWS", ["local_addr", "remote_port", "Established"]),
            ("maps/ENDPOINTS", ["group_set", "branch_ifindex", "vlan_id"]),
            ("maps/PEERS", ["key", "group_set", "255"]),
            ("policies/pol_", ["Service", "Remote", "words"]),
        ] {
            let path = pin_path(&format!("{dir}/v{ABI_VERSION}/{map}"))?;
            let command = format!("bpftool map dump pinned {path} | head");
            self.narrator.step(
                &Step { title: "What the kernel holds", command: &command, expected: "entries with named fields" },
                || {
                    let dump = hands.bpftool(&["map", "dump", "pinned", &path])?.ok()?;
                    for field in fields {
                        ensure!(dump.contains(field), "no {field} in {}", first_lines(&dump, 40));
                    }
                    Ok(first_lines(&dump, 12))
                },
            )?;
        }
        Ok(())
    }

    pub(super) fn revoke_dns(&mut self) -> Result<()> {
        let (hands, cluster_group) = (self.hands, &self.world.cluster_group);
        let rules: Vec<&str> = self.dns_rules.iter().map(String::as_str).collect();
        let command = format!(
            "aws ec2 revoke-security-group-ingress --group-id {cluster_group} --security-group-rule-ids {}",
            rules.join(" ")
        );
        self.narrator.step(
            &Step { title: "The two DNS rules are revoked", command: &command, expected: "EC2 agrees" },
            || {
                let base = ["revoke-security-group-ingress", "--group-id", cluster_group, "--security-group-rule-ids"];
                hands.ec2(&[&base[..], &rules[..]].concat())
            },
        )?;
        std::thread::sleep(SOON);
        self.without_dns()
    }

    fn without_dns(&mut self) -> Result<()> {
        let hands = self.hands;
        let [first, .., last] = &self.pods[..] else { bail!("fewer than two pods") };
        let command = format!("kubectl exec {} -- curl my-app", first.name);
        self.narrator.step(
            &Step {
                title: "Two seconds later the name is gone …",
                command: &command,
                expected: "Could not resolve host: my-app",
            },
            || {
                let outcome = hands.exec(NAMESPACE, &first.name, &["curl", "-sS", "my-app"])?;
                ensure!(outcome.words().contains("Could not resolve host: my-app"), "curl says {:?}", outcome.words());
                Ok(outcome.words())
            },
        )?;
        let command = format!("kubectl exec {} -- curl {}", first.name, last.address);
        self.narrator.step(
            &Step {
                title: "… but by address the pods still answer", command: &command, expected: "Welcome to nginx!"
            },
            || {
                let page = hands.exec(NAMESPACE, &first.name, &["curl", "-sS", "-m", "10", &last.address])?.ok()?;
                ensure!(page.contains("Welcome to nginx!"), "the page is {page:?}");
                Ok("Welcome to nginx!".to_owned())
            },
        )
    }

    pub(super) fn outsider(&mut self) -> Result<()> {
        let hands = self.hands;
        self.narrator.step(
            &Step {
                title: "A pod outside the group",
                command: "kubectl apply -f deploy/tutorial/outsider.yaml",
                expected: "it runs, with an address of the node's own",
            },
            || {
                hands.apply(OUTSIDER)?.ok()?;
                until(PODS, || {
                    let args =
                        ["get", "pod", "outsider", "-n", NAMESPACE, "-o", "jsonpath={.status.phase} {.status.podIP}"];
                    let seen = hands.kubectl(&args)?.ok()?;
                    ensure!(seen.starts_with("Running "), "the pod is {seen:?}");
                    Ok(seen)
                })
            },
        )?;
        for pod in self.pods.clone() {
            self.outsider_fails(&pod)?;
        }
        Ok(())
    }

    fn outsider_fails(&mut self, pod: &Pod) -> Result<()> {
        let (hands, dir) = (self.hands, self.bpf_dir(&pod.node)?);
        let named = format!("{NAMESPACE}/{}", pod.name);
        let command = format!(
            "kubectl exec outsider -- curl -m 2 {}\nsgp-agent drops --pod {named}   (on {})",
            pod.address, pod.node
        );
        self.narrator.step(
            &Step {
                title: "It cannot connect, and the data path says why",
                command: &command,
                expected: "curl times out; drops inbound with reason NoMatchingRule",
            },
            || {
                let outcome = hands.exec(NAMESPACE, "outsider", &["curl", "-sS", "-m", "2", &pod.address])?;
                ensure!(outcome.status == 28, "curl ended with {}: {}", outcome.status, outcome.words());
                let drops = hands.agent(&["drops", "--bpf-dir", &dir, "--pod", &named])?.ok()?;
                ensure!(drops.contains("NoMatchingRule"), "the data path recorded {drops}");
                Ok(format!("{}\n{drops}", outcome.words()))
            },
        )
    }

    pub(super) fn clean_up(&mut self) -> Result<()> {
        let (hands, group) = (self.hands, &self.group);
        let command = format!("kubectl delete namespace {NAMESPACE}\naws ec2 delete-security-group --group-id {group}");
        self.narrator.step(
            &Step {
                title: "Clean-up",
                command: &command,
                expected: "the namespace goes; once their branches have cooled down and gone, so does the group",
            },
            || {
                hands.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=90s"])?.ok()?;
                until(PODS, || hands.ec2(&["delete-security-group", "--group-id", group]))?;
                let filter = format!("Name=group-id,Values={group}");
                let left = hands.ec2(&[
                    "describe-network-interfaces",
                    "--filters",
                    &filter,
                    "--query",
                    "NetworkInterfaces[].NetworkInterfaceId",
                ])?;
                ensure!(left.is_empty(), "EC2 still has {left}");
                Ok("no namespace, no interface, no group".to_owned())
            },
        )
    }
}

/// The first pin whose path begins so.
fn pin_path(begin: &str) -> Result<String> {
    let (dir, name) = begin.rsplit_once('/').context("pins have a directory")?;
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {dir}"))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let found = names.into_iter().find(|found| found.starts_with(name));
    found.map(|found| format!("{dir}/{found}")).with_context(|| format!("nothing is pinned at {begin}"))
}

fn first_lines(text: &str, count: usize) -> String {
    text.lines().take(count).collect::<Vec<_>>().join("\n")
}
