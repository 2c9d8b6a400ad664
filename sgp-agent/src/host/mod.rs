//! Prepares the node for its pods (`domain::host`), and puts back what it changed when enforcement is taken
//! off. What was there before is written down before it is changed.

mod record;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sgp_common::addr::Family;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use crate::domain::host::{Need, RuleStep, Sysctl, local_steps, rules, sysctls};
use crate::domain::observed::LinkFacts;
use crate::domain::routing::RoutingRule;
use crate::domain::settings::Settings;
use crate::domain::settings::variable::ENI_MTU;
use crate::domain::wiring::{BY_NODE_PRIORITY, EXTERNAL_PRIORITY, MARK_PRIORITY, parse_mac};
use crate::io::netlink::Netlink;
use record::{Change, Record};

/// Where the kernel shows its settings.
pub const PROC_SYS: &str = "/proc/sys";
/// Somebody else may change rules while we do; this often we look whether ours stand.
const LOOKS: usize = 5;

/// The node, and how it is to be set.
pub struct Host {
    settings: Settings,
    proc_sys: PathBuf,
    record: PathBuf,
    ready: OnceCell<()>,
}

impl Host {
    /// A node with these settings. `proc_sys` is `/proc/sys`, or where a container can write the node's.
    pub fn new(settings: Settings, proc_sys: &Path, runtime_dir: &Path) -> Self {
        let record = record::path(runtime_dir);
        Self { settings, proc_sys: proc_sys.to_path_buf(), record, ready: OnceCell::new() }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes the node ready for pods, once; pods must not be wired before.
    ///
    /// # Errors
    /// Names the setting and the way out. It can be tried again.
    pub async fn ready(&self) -> Result<()> {
        self.ready.get_or_try_init(|| self.prepare()).await.map(drop)
    }

    async fn prepare(&self) -> Result<()> {
        let netlink = Netlink::connect()?;
        let mut record = Record::read(&self.record)?;
        let primary = primary(&netlink).await?;
        for sysctl in sysctls(&self.settings, primary.as_ref().map(|link| link.name.as_str())) {
            self.set(&sysctl, &mut record)?;
        }
        match primary {
            Some(link) => self.set_mtu(&netlink, &link, &mut record).await?,
            None => warn!("the node has no default route, so no primary interface: its MTU and rp_filter stay"),
        }
        self.node_rules(&netlink, &mut record).await?;
        self.move_local(&netlink, &mut record).await?;
        info!(mode = self.settings.mode.name(), family = ?self.settings.family, "the node is ready for pods");
        Ok(())
    }

    /// Gives the trunk its MTU and sets it up.
    ///
    /// # Errors
    /// Where the node has no link with the trunk's MAC address (yet), or it cannot be changed.
    pub async fn prepare_trunk(&self, mac: &str) -> Result<()> {
        let address = parse_mac(mac).with_context(|| format!("EC2 says the trunk's MAC address is {mac:?}"))?;
        let netlink = Netlink::connect()?;
        let links = netlink.links().await?;
        // VLAN links of other programs may bear their trunk's address; theirs stands first.
        let trunk = links.into_iter().filter(|link| link.mac == address).min_by_key(|link| link.index);
        let trunk = trunk.with_context(|| format!("no link of this node has the trunk's MAC address {mac}"))?;
        self.set_mtu(&netlink, &trunk, &mut Record::read(&self.record)?).await?;
        netlink.set(trunk.index, |link| link.up()).await
    }

    fn set(&self, sysctl: &Sysctl, record: &mut Record) -> Result<()> {
        let path = self.proc_sys.join(&sysctl.path);
        let before = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && sysctl.need == Need::IfThere => return Ok(()),
            read => read.with_context(|| format!("reading {}", path.display()))?.trim().to_owned(),
        };
        if before == sysctl.value {
            return Ok(());
        }
        record.note(&self.record, |all| {
            let change = all.sysctls.entry(sysctl.path.clone()).or_insert(Change { before, ours: String::new() });
            sysctl.value.clone_into(&mut change.ours);
        })?;
        std::fs::write(&path, sysctl.value).with_context(|| {
            format!("setting {} to {}: is the node's /proc/sys/net writable there?", path.display(), sysctl.value)
        })
    }

    async fn set_mtu(&self, netlink: &Netlink, link: &LinkFacts, record: &mut Record) -> Result<()> {
        let (before, ours) = (netlink.mtu(link.index).await?, self.settings.eni_mtu);
        if before == ours {
            return Ok(());
        }
        record.note(&self.record, |all| {
            all.mtus.entry(link.name.clone()).or_insert(Change { before, ours }).ours = ours;
        })?;
        let set = netlink.set(link.index, |change| change.mtu(ours)).await;
        set.with_context(|| format!("{} cannot have the MTU {ours}: set {ENI_MTU} to one it can have", link.name))
    }

    /// Rules of earlier settings go, unless they were there before us.
    async fn node_rules(&self, netlink: &Netlink, record: &mut Record) -> Result<()> {
        let (wanted, mut present) = (rules(&self.settings), netlink.rules(Family::V4).await?);
        present.extend(netlink.rules(Family::V6).await?);
        let settable = [BY_NODE_PRIORITY, MARK_PRIORITY, EXTERNAL_PRIORITY];
        let of_settings = |rule: &&RoutingRule| settable.contains(&rule.priority);
        let stale: Vec<RoutingRule> =
            record.added.iter().filter(of_settings).filter(|rule| !wanted.contains(rule)).cloned().collect();
        for rule in stale {
            netlink.delete_rule(&rule).await?;
            record.note(&self.record, |all| all.added.retain(|known| *known != rule))?;
        }
        for rule in wanted.iter().filter(|rule| !present.contains(rule)) {
            self.step(netlink, &RuleStep::Add(rule.clone()), record).await?;
        }
        Ok(())
    }

    async fn move_local(&self, netlink: &Netlink, record: &mut Record) -> Result<()> {
        let family = self.settings.family;
        for _ in 0..LOOKS {
            let steps = local_steps(self.settings.mode, family, &netlink.rules(family).await?);
            if steps.is_empty() {
                return Ok(());
            }
            for step in steps {
                self.step(netlink, &step, record).await?;
            }
        }
        bail!(
            "the rule of the table local comes back to priority 0: another program moves it; strict mode cannot work beside that"
        )
    }

    async fn step(&self, netlink: &Netlink, step: &RuleStep, record: &mut Record) -> Result<()> {
        record.note(&self.record, |all| all.add_step(step))?;
        match step {
            RuleStep::Add(rule) => netlink.add_rule(rule).await,
            RuleStep::Remove(rule) => netlink.delete_rule(rule).await,
        }
    }
}

/// The interface of the default route.
async fn primary(netlink: &Netlink) -> Result<Option<LinkFacts>> {
    let device = match netlink.default_device(Family::V4).await? {
        Some(device) => Some(device),
        None => netlink.default_device(Family::V6).await?,
    };
    Ok(netlink.links().await?.into_iter().find(|link| Some(link.index) == device))
}

/// Whether all that was changed on the node is still so.
///
/// # Errors
/// Names what is not, and what it needs to be.
pub async fn check(proc_sys: &Path, runtime_dir: &Path) -> Result<()> {
    let record = Record::read(&record::path(runtime_dir))?;
    let netlink = Netlink::connect()?;
    for family in [Family::V4, Family::V6] {
        let present = netlink.rules(family).await?;
        let is_there = |rule: &&RoutingRule| rule.family == family && present.contains(rule);
        if let Some(gone) = record.added.iter().find(|rule| rule.family == family && !is_there(rule)) {
            bail!("the rule \"{gone}\" is gone; a restart of the agent brings it back");
        }
        if let Some(back) = record.removed.iter().find(is_there) {
            bail!("the rule \"{back}\" is back; a restart of the agent removes it");
        }
    }
    for (key, change) in &record.sysctls {
        let now = std::fs::read_to_string(proc_sys.join(key)).unwrap_or_default();
        ensure!(
            now.trim() == change.ours,
            "{key} is {} and needs {}; a restart of the agent sets it",
            now.trim(),
            change.ours
        );
    }
    for (name, change) in &record.mtus {
        let Some(link) = netlink.link(name).await? else { continue };
        let mtu = netlink.mtu(link.index).await?;
        ensure!(
            mtu == change.ours,
            "the MTU of {name} is {mtu} and needs {}; a restart of the agent sets it",
            change.ours
        );
    }
    Ok(())
}

/// Puts the node back as it was before the first `Host::ready`, but for what somebody else has changed since.
/// Does nothing where nothing was changed.
///
/// # Errors
/// Where something cannot be put back; what was is still in the record then.
pub async fn restore(proc_sys: &Path, runtime_dir: &Path) -> Result<()> {
    let path = record::path(runtime_dir);
    let record = Record::read(&path)?;
    let netlink = Netlink::connect()?;
    // First the rules that were there: the table `local` is never missing.
    for rule in &record.removed {
        netlink.add_rule(rule).await?;
    }
    for rule in &record.added {
        netlink.delete_rule(rule).await?;
    }
    for (key, change) in &record.sysctls {
        let path = proc_sys.join(key);
        // A sysctl of an interface that is gone needs nothing.
        if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == change.ours) {
            std::fs::write(&path, &change.before).with_context(|| format!("putting back {}", path.display()))?;
        }
    }
    for (name, change) in &record.mtus {
        if let Some(link) = netlink.link(name).await?
            && netlink.mtu(link.index).await? == change.ours
        {
            netlink.set(link.index, |link| link.mtu(change.before)).await?;
        }
    }
    record::forget(&path)
}
