//! Which flows EC2 would not track (facts 5.2).

use sgp_common::packet::{TCP, UDP};
use sgp_common::policy::{PROTOCOL_BITS, RuleSet, Selector, hints};

use super::groups::{Rule, Service};

/// How open one direction and family of a policy is.
pub(super) struct Openness {
    /// Its rules whose remote is all addresses.
    everybody: RuleSet,
    /// Protocols of which the other direction allows all ports to all addresses, bits of [`hints`].
    answered: u64,
}

impl Openness {
    /// Of one half's rules, numbered, and those of the other direction; `is_everybody` tells whether a rule's remote
    /// is all addresses.
    pub(super) fn of(rules: &[&Rule], other: &[&Rule], is_everybody: impl Fn(&Rule) -> bool) -> Self {
        let mut everybody = RuleSet::EMPTY;
        for (index, _) in rules.iter().enumerate().filter(|(_, rule)| is_everybody(rule)) {
            everybody.insert(index);
        }
        let open = other.iter().filter(|rule| is_everybody(rule));
        Self { everybody, answered: open.fold(0, |bits, rule| bits | all_ports(&rule.service)) }
    }

    /// For which protocols a flow to the service that a key stands for is untracked. A rule for all addresses that
    /// the service satisfies admits whoever asks, so the service alone decides.
    pub(super) fn untracked(&self, bits: u32, service: &Selector, rules: &RuleSet) -> u64 {
        if !rules.words.iter().zip(self.everybody.words).any(|(some, all)| some & all != 0) {
            return 0;
        }
        let spoken_of = match service.data[0] {
            _ if bits < PROTOCOL_BITS => hints::UNTRACKED_TCP | hints::UNTRACKED_UDP,
            TCP => hints::UNTRACKED_TCP,
            UDP => hints::UNTRACKED_UDP,
            _ => 0,
        };
        self.answered & spoken_of
    }
}

fn all_ports(service: &Service) -> u64 {
    match *service {
        Service::All => hints::UNTRACKED_TCP | hints::UNTRACKED_UDP,
        Service::Ports { protocol: TCP, from: 0, to: u16::MAX } => hints::UNTRACKED_TCP,
        Service::Ports { protocol: UDP, from: 0, to: u16::MAX } => hints::UNTRACKED_UDP,
        _ => 0,
    }
}
