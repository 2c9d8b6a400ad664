//! From what is desired to what the kernel holds.

use anyhow::{Context, Result};
use tracing::info;

use crate::domain::desired::{Desired, Refusal};
use crate::domain::installed::Installed;
use crate::domain::plan::{Step, plan};
use crate::io::kernel::Kernel;

/// Takes every step; the first that fails ends the round, since later ones may rest on it. Nothing rests on the trunk's program:
/// an interface that does not take it is told of as refused. Gives what is installed then.
///
/// # Errors
/// Where the kernel refuses a step.
pub fn apply<K: Kernel>(kernel: &mut K, desired: &mut Desired, sweep: bool) -> Result<Installed> {
    kernel.restore()?;
    let installed = kernel.installed().context("reading what is installed")?;
    let steps = plan(desired, &installed);
    let mut taken = 0;
    let mut take = |step: &Step| match (step, kernel.apply(step)) {
        (Step::AttachEarly(link, _), Err(error)) => {
            let (object, reason) = (format!("trunk {}", link.interface), format!("{error:#}"));
            desired.refused.push(Refusal { object, reason });
            Ok(())
        }
        (_, done) => done.inspect(|()| taken += 1),
    };
    let done = steps.iter().try_for_each(&mut take);
    // A step may have failed for want of room that only sweeping gives back. And a branch goes on to another
    // pod under the same endpoint id: what its last pod was allowed must not be there any more.
    let forgotten = steps.iter().any(|step| matches!(step, Step::RemoveEndpoint(_)));
    if sweep || forgotten || done.is_err() {
        kernel.sweep()?;
    }
    done?;
    if taken == 0 {
        return Ok(installed);
    }
    info!(steps = taken, endpoints = desired.endpoints.len(), policies = desired.policies.len(), "enforced a change");
    kernel.installed().context("reading what is installed")
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use sgp_common::pins::program;

    use super::*;
    use crate::domain::early::EarlyPlan;
    use crate::domain::enforcement::Early;
    use crate::domain::installed::Link;
    use crate::io::kernel::Swept;

    /// A kernel whose trunk takes no XDP program.
    #[derive(Default)]
    struct Old(Vec<Step>);

    impl Kernel for Old {
        fn restore(&mut self) -> Result<()> {
            Ok(())
        }

        fn installed(&self) -> Result<Installed> {
            Ok(Installed::default())
        }

        fn apply(&mut self, step: &Step) -> Result<()> {
            self.0.push(step.clone());
            if matches!(step, Step::AttachEarly(..)) {
                bail!("eth1 takes no XDP program")
            }
            Ok(())
        }

        fn sweep(&mut self) -> Result<Swept> {
            bail!("nothing is to be swept")
        }
    }

    #[test]
    fn a_trunk_that_takes_no_program_is_told_of_and_all_else_is_enforced() {
        let link = Link { interface: "eth1".into(), ifindex: 3, program: program::FROM_TRUNK };
        let early = EarlyPlan { link, how: Early::Native, vlans: [(7, 9)].into() };
        let mut desired = Desired { early: Some(early), ..Desired::default() };
        let mut kernel = Old::default();
        apply(&mut kernel, &mut desired, false).expect("the round goes through");
        assert!(kernel.0.contains(&Step::PutVlan(7, 9)), "{:?}", kernel.0);
        let refused: Vec<_> =
            desired.refused.iter().map(|refusal| (refusal.object.as_str(), refusal.reason.as_str())).collect();
        assert_eq!(refused, [("trunk eth1", "eth1 takes no XDP program")]);
    }
}
