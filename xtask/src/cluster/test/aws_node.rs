//! What aws-node programs with its own translation on.

/// Its rules of iptables (facts 4); `VPC` and `NODE` are the cluster's.
pub(crate) const AWS_NODE: [&str; 11] = [
    "-t nat -N AWS-CONNMARK-CHAIN-0",
    "-t nat -N AWS-SNAT-CHAIN-0",
    "-t mangle -A PREROUTING -i eth0 -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80",
    "-t mangle -A PREROUTING -i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
    "-t nat -A PREROUTING -i eni+ -m state --state NEW -j AWS-CONNMARK-CHAIN-0",
    "-t nat -A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
    "-t nat -A AWS-CONNMARK-CHAIN-0 -d VPC -j RETURN",
    "-t nat -A AWS-CONNMARK-CHAIN-0 -j CONNMARK --set-xmark 0x80/0x80",
    "-t nat -A POSTROUTING -j AWS-SNAT-CHAIN-0",
    "-t nat -A AWS-SNAT-CHAIN-0 -d VPC -j RETURN",
    "-t nat -A AWS-SNAT-CHAIN-0 ! -o vlan+ -m addrtype ! --dst-type LOCAL -j SNAT --to-source NODE --random-fully",
];
