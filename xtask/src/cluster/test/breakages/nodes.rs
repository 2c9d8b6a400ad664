//! Breakages of what a node or a pod holds: branches, flows, addresses, annotations, interfaces.

use std::process::Command;
use std::thread;

use anyhow::{Result, anyhow, ensure};

use super::super::stage::{NAMESPACE, Role, START};
use super::said::{curled, events_of, typed, unattempted, uncounted, wrong};
use super::{SEEN, Scene};
use crate::demo::hands::until;

/// More flows than one pod may hold, for as long as the cause is looked for: what expires is taken at once.
const FLOOD: &str = "import socket, sys, time
s, end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), time.monotonic() + 10
while time.monotonic() < end:
    for host in (201, 202, 203):
        for port in range(1, 34000):
            s.sendto(b'x', (sys.argv[1] + str(host), port))
";

/// Off the trunk and gone, before the agent has put it back onto the trunk.
const DELETE: &str = "import boto3, botocore, sys
ec2, branch = boto3.client('ec2'), sys.argv[1]
for attempt in range(50):
    for it in ec2.describe_trunk_interface_associations()['InterfaceAssociations']:
        if it['BranchInterfaceId'] == branch:
            ec2.disassociate_trunk_interface(AssociationId=it['AssociationId'])
    try:
        ec2.delete_network_interface(NetworkInterfaceId=branch)
        sys.exit(0)
    except botocore.exceptions.ClientError as error:
        last = error
sys.exit(str(last))
";

impl Scene<'_> {
    /// The scheduler counts branches; two pods that want them all leave none.
    pub(super) fn capacity(&mut self) -> Result<()> {
        self.page.part("5. The nodes carry no more branches", "A pod stays Pending:");
        let all = self.stage.place.machine.branches();
        for node in &self.stage.world.nodes {
            self.greedy(&format!("greedy-{}", node.name), all)?;
        }
        self.greedy("late", 1)?;
        let said = until(SEEN, || {
            let said = events_of(&self.stage.describe("late")?);
            ensure!(said.contains("Insufficient"), "{said}");
            Ok(said)
        })?;
        let causes = ["FailedScheduling", "Insufficient vpc.amazonaws.com/pod-eni"];
        self.page.command("kubectl describe pod late -n cases | grep Warning", &said, &causes)?;
        let names =
            self.stage.world.nodes.iter().map(|node| format!("greedy-{}", node.name)).chain(["late".to_owned()]);
        for name in names {
            self.stage.hands.kubectl(&["delete", "pod", &name, "-n", NAMESPACE, "--wait=false"])?.ok()?;
        }
        Ok(())
    }

    /// A pod of no policy that asks for so many branches.
    fn greedy(&self, name: &str, branches: u16) -> Result<()> {
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: busybox, command: [sleep, '3600'],\n\
             resources: {{limits: {{vpc.amazonaws.com/pod-eni: '{branches}'}}}}}}]}}\n"
        );
        self.stage.hands.apply(&yaml)?.ok()?;
        let path = "jsonpath={.spec.nodeName}{.status.conditions[?(@.type==\"PodScheduled\")].reason}";
        until(SEEN, || {
            let seen = self.stage.hands.kubectl(&["get", "pod", name, "-n", NAMESPACE, "-o", path])?.ok()?;
            ensure!(!seen.is_empty(), "the scheduler has not seen {name}");
            Ok(())
        })
    }

    pub(super) fn spoofing(&mut self) -> Result<()> {
        self.page.part("6. A pod sends under an address that is not its own", "What it sends gets no answer:");
        let foreign = ["ip", "address", "add", "192.0.2.1/32", "dev", "eth0"];
        self.stage.hands.exec(NAMESPACE, "partner", &foreign)?.ok()?;
        let curl = ["curl", "-sS", "-m", "1", "--interface", "192.0.2.1", &self.server];
        let said = self.stage.hands.exec(NAMESPACE, "partner", &curl)?;
        self.page.command(
            &format!("kubectl exec partner -n cases -- {}", curl.join(" ")),
            &curled(&said),
            &["timed out"],
        )?;
        let words = ["drops", "--pod", "cases/partner"];
        let said = uncounted(&self.agent(&words)?.ok()?);
        let causes = ["outbound SpoofedSource", "The pod sent with a MAC or source address that is not its own"];
        self.page.command(&typed(&words), &said, &causes)
    }

    pub(super) fn flows(&mut self) -> Result<()> {
        self.page.part(
            "7. A pod's share of the flow table is full",
            "The pod has talked to very many peers at once; its old connections go on, new ones do not:",
        );
        let python = self.stage.hands.venv.join("bin/python").display().to_string();
        let net = format!("{}.", self.stage.place.address(1, 0).trim_end_matches(".0"));
        let (hands, server) = (&self.stage.hands, self.server.clone());
        let words = ["explain", "cases/partner", "out", "tcp", &server, "80"];
        let cause = "dropped: EndpointFlowLimit: rules allow it, but the pod holds";
        thread::scope(|scope| {
            let flood = scope.spawn(|| hands.exec(NAMESPACE, "partner", &[&python, "-c", FLOOD, &net])?.ok());
            until(SEEN, || {
                let said = self.agent(&words)?.words();
                ensure!(said.contains(cause), "{said}");
                Ok(())
            })?;
            self.curl("partner", &server, "timed out")?;
            let said = unattempted(&self.agent(&words)?.words());
            self.page.command(&typed(&words), &said, &[cause])?;
            flood.join().map_err(|_| anyhow!("the flood panicked"))?.map(drop)
        })
    }

    pub(super) fn stale_annotation(&mut self) -> Result<()> {
        self.page.part(
            "8. A stale annotation",
            "A pod comes with the annotation of an interface that is no more. It does not start:",
        );
        let stale = "[{\"eniId\":\"eni-0000000000000dead\",\"ifAddress\":\"02:00:00:00:de:ad\",\"privateIp\":\"10.64.0.250\",\"vlanId\":7,\"subnetCidr\":\"10.64.0.0/24\"}]";
        let pod = Role { name: "stale", role: "client", node: &self.node.name, image: "busybox" };
        self.stage.ask_for(&pod, &format!("vpc.amazonaws.com/pod-eni: '{stale}'"))?;
        let said = until(START, || {
            let said = events_of(&self.stage.describe("stale")?);
            ensure!(said.contains("BranchAllocationFailed"), "{said}");
            Ok(said)
        })?;
        self.page.command(
            "kubectl describe pod stale -n cases | grep Warning",
            &said,
            &["annotation", "which EC2 does not know"],
        )?;
        self.stage.hands.kubectl(&["delete", "pod", "stale", "-n", NAMESPACE, "--wait=false"])?.ok().map(drop)
    }

    pub(super) fn deleted_interface(&mut self) -> Result<()> {
        self.page.part(
            "9. Somebody deleted a pod's interface in EC2",
            "Its node goes on enforcing what it knows, but the VPC delivers nothing any more:",
        );
        let filter = "Name=tag:sgp.dev/pod,Values=cases/client";
        let query = "NetworkInterfaces[0].NetworkInterfaceId";
        let id = self.stage.hands.ec2(&["describe-network-interfaces", "--filters", filter, "--query", query])?;
        let python = self.stage.hands.venv.join("bin/python");
        self.stage.hands.finish(Command::new(python).args(["-c", DELETE, &id]))?.ok()?;
        let words = ["doctor"];
        let said = until(SEEN, || {
            let said = self.agent(&words)?.words();
            ensure!(said.contains("its annotation names") && said.contains("its branch"), "{said}");
            Ok(wrong(&said))
        })?;
        self.page.command("sgp-agent doctor | grep '!!'", &said, &["cases/client", "which EC2 does not know"])
    }
}
