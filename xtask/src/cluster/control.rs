//! The control plane: etcd, API server, controller manager and scheduler, the real ones.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::demo::hands::until;
use crate::place::{Family, Place};
use crate::process::{daemon, finish, within};
use crate::tools::Tools;

/// What our own accounts ask for; who else asks is not written down.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: ['system:serviceaccount:kube-system:sgp-agent', 'system:serviceaccount:kube-system:sgp-controller']}
- {level: None}
";
/// Below the cluster's directory.
pub(crate) const AUDIT_LOG: &str = "audit.log";

/// How long the API server may take on two busy cores.
const READY: Duration = Duration::from_secs(120);

/// Starts the control plane and waits until it answers.
pub(crate) fn start(place: &Place, tools: &Tools) -> Result<()> {
    credentials(place)?;
    fs::write(place.dir().join("kubeconfig"), kubeconfig(place)?).context("writing the kubeconfig")?;
    fs::write(place.dir().join("audit.yaml"), AUDIT).context("writing the audit policy")?;
    let program = |name: &str| within(&place.netns("cp"), tools.kube_bin.join(name));
    daemon(place, "etcd", program("etcd").args(etcd(place)))?;
    daemon(place, "kube-apiserver", program("kube-apiserver").args(apiserver(place)))?;
    ready(place, tools)?;
    daemon(place, "kube-controller-manager", program("kube-controller-manager").args(controller_manager(place)))?;
    let kubeconfig = format!("--kubeconfig={}", path(place, "kubeconfig"));
    daemon(place, "kube-scheduler", program("kube-scheduler").args([&kubeconfig, "--leader-elect=false"]))?;
    Ok(())
}

/// Ends the API server and starts it again. What has changed before is not in its cache then, and whoever wants to go on watching from
/// there is told 410 Gone.
pub(crate) fn restart_apiserver(place: &Place, tools: &Tools) -> Result<()> {
    let file = place.dir().join("kube-apiserver.pid");
    let pid = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    finish(Command::new("kill").args(["-9", pid.trim()]))?;
    until(READY, || {
        // Its last threads hold the socket a moment longer than it has a name.
        let left = finish(within(&place.netns("cp"), "ss").args(["-Hltn", "sport", "=", ":6443"]))?;
        ensure!(left.trim().is_empty(), "the API server does not end: {left}");
        Ok(())
    })?;
    let mut program = within(&place.netns("cp"), tools.kube_bin.join("kube-apiserver"));
    daemon(place, "kube-apiserver", program.args(apiserver(place)))?;
    ready(place, tools)
}

fn path(place: &Place, file: &str) -> String {
    place.dir().join(file).display().to_string()
}

/// A certificate authority of the cluster's own, the server's certificate, the key of ServiceAccount tokens.
fn credentials(place: &Place) -> Result<()> {
    let dir = place.dir();
    let openssl = |words: &str| finish(Command::new("openssl").current_dir(&dir).args(words.split(' '))).map(drop);
    openssl("ecparam -name prime256v1 -genkey -noout -out ca.key")?;
    openssl("req -x509 -key ca.key -out ca.crt -subj /CN=sgp-dev -days 30")?;
    openssl("ecparam -name prime256v1 -genkey -noout -out server.key")?;
    openssl("req -new -key server.key -out server.csr -subj /CN=kube-apiserver")?;
    let names =
        format!("subjectAltName=IP:{},IP:{},DNS:kubernetes.default.svc", place.control_plane(), place.api_service());
    fs::write(dir.join("server.ext"), names).context("writing the server's names")?;
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out server.crt -extfile server.ext",
    )?;
    openssl("genrsa -out sa.key 2048")?;
    let mut token = [0; 16];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut token).context("making a token")?;
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(dir.join("token"), &token).context("writing the token")?;
    fs::write(dir.join("tokens.csv"), format!("{token},admin,admin,\"system:masters\"\n")).context("writing tokens")
}

fn kubeconfig(place: &Place) -> Result<String> {
    let token = fs::read_to_string(place.dir().join("token")).context("reading the token")?;
    Ok(kubeconfig_of(place, "admin", &token))
}

/// How a user with a token reaches the API server.
pub(crate) fn kubeconfig_of(place: &Place, user: &str, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: sgp-dev\n\
         clusters: [{{name: sgp-dev, cluster: {{server: \"https://{}:6443\", certificate-authority: {}}}}}]\n\
         users: [{{name: {user}, user: {{token: {token}}}}}]\n\
         contexts: [{{name: sgp-dev, context: {{cluster: sgp-dev, user: {user}}}}}]\n",
        place.control_plane(),
        path(place, "ca.crt")
    )
}

fn etcd(place: &Place) -> Vec<String> {
    let data = path(place, "etcd");
    [
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([format!("--data-dir={data}")])
    .collect()
}

fn apiserver(place: &Place) -> Vec<String> {
    // In an IPv6 cluster Services lead to the API server by IPv6, and people by IPv4.
    let (bind, advertised) = match place.family {
        Family::V4 => (place.control_plane(), place.control_plane()),
        Family::V6 => ("::".to_owned(), place.address_v6(250, 10)),
    };
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        "--secure-port=6443".to_owned(),
        format!("--bind-address={bind}"),
        format!("--advertise-address={advertised}"),
        format!("--tls-cert-file={}", path(place, "server.crt")),
        format!("--tls-private-key-file={}", path(place, "server.key")),
        format!("--client-ca-file={}", path(place, "ca.crt")),
        format!("--token-auth-file={}", path(place, "tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--service-cluster-ip-range={}", place.services()),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path(place, "sa.key")),
        format!("--service-account-signing-key-file={}", path(place, "sa.key")),
        "--allow-privileged=true".to_owned(),
        format!("--audit-policy-file={}", path(place, "audit.yaml")),
        format!("--audit-log-path={}", path(place, AUDIT_LOG)),
    ]
}

fn controller_manager(place: &Place) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", path(place, "kubeconfig")),
        format!("--service-account-private-key-file={}", path(place, "sa.key")),
        format!("--root-ca-file={}", path(place, "ca.crt")),
        "--leader-elect=false".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
    ]
}

fn ready(place: &Place, tools: &Tools) -> Result<()> {
    let kubectl = tools.kube_bin.join("kubectl");
    until(READY, || {
        let mut command = Command::new(&kubectl);
        finish(command.envs(place.environment()).args(["get", "--raw", "/readyz"]))
    })
    .map(drop)
    .or_else(|error| {
        let log = fs::read_to_string(place.dir().join("logs/kube-apiserver.log")).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(5).collect();
        bail!(
            "the API server does not answer: {error:#}; its log ends with:\n{}",
            end.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
    })
}
