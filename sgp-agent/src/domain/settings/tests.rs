use super::*;

fn read(given: &[(&'static str, &str)]) -> Result<(Settings, Vec<String>), String> {
    Settings::read(&given.iter().map(|(name, text)| (*name, (*text).to_owned())).collect())
}

fn settings(given: &[(&'static str, &str)]) -> Settings {
    let (settings, warnings) = read(given).expect("good settings");
    assert_eq!(warnings, [""; 0], "nothing is odd about {given:?}");
    settings
}

fn refused(name: &'static str, text: &str) -> String {
    let told = read(&[(name, text)]).expect_err("it is refused");
    assert!(told.contains(name) && told.contains(&format!("{text:?}")), "{told} names variable and value");
    told
}

fn warned(name: &'static str, text: &str) -> Settings {
    let (settings, warnings) = read(&[(name, text)]).expect("it is tolerated");
    assert_eq!(warnings.len(), 1, "{name}={text} is told once: {warnings:?}");
    assert!(warnings[0].contains(name) && warnings[0].contains(&format!("{text:?}")), "{warnings:?}");
    settings
}

fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
    texts.iter().map(|text| text.parse().expect("a CIDR")).collect()
}

#[test]
fn without_variables_the_settings_are_awss_defaults() {
    assert_eq!(settings(&[]), Settings::default());
    assert_eq!(settings(&[(variable::MODE, ""), (variable::MARK, " ")]), Settings::default());
    assert_eq!(Settings::default().mode, Mode::Strict);
}

#[test]
fn the_mode_is_strict_or_standard_and_nothing_else_starts() {
    assert_eq!(settings(&[(variable::MODE, "standard")]).mode, Mode::Standard);
    assert_eq!(settings(&[(variable::MODE, "strict")]).mode, Mode::Strict);
    for text in ["Standard", "loose", "standard,strict"] {
        assert_eq!(
            refused(variable::MODE, text),
            format!("POD_SECURITY_GROUP_ENFORCING_MODE is {text:?}: set it to strict or standard")
        );
    }
}

#[test]
fn pods_have_exactly_one_family() {
    let family = |v4, v6| read(&[(variable::IPV4, v4), (variable::IPV6, v6)]).map(|(settings, _)| settings.family);
    assert_eq!(family("", "true"), Ok(Family::V6));
    assert_eq!(family("false", "true"), Ok(Family::V6));
    assert_eq!(family("true", ""), Ok(Family::V4));
    for both in ["true", "false"] {
        let told = family(both, both).expect_err("both the same");
        assert!(told.contains("ENABLE_IPv4") && told.contains("ENABLE_IPv6") && told.contains(both), "{told}");
    }
}

#[test]
fn mtus_have_awss_ranges_and_the_pods_follows_the_interfaces() {
    let set = settings(&[(variable::ENI_MTU, "1500")]);
    assert_eq!((set.eni_mtu, set.pod_mtu), (1500, 1500));
    let set = settings(&[(variable::ENI_MTU, "9001"), (variable::POD_MTU, "576")]);
    assert_eq!((set.eni_mtu, set.pod_mtu), (9001, 576));
    for text in ["575", "9002", "-1", "jumbo"] {
        assert!(refused(variable::ENI_MTU, text).contains("576 to 9001"));
        assert!(refused(variable::POD_MTU, text).contains("576 to 9001"));
    }
    let told = read(&[(variable::IPV6, "true"), (variable::POD_MTU, "1279")]).expect_err("IPv6 needs 1280");
    assert!(told.contains("POD_MTU") && told.contains("1280 to 9001"), "{told}");
}

#[test]
fn veth_prefixes_that_are_too_long_or_somebody_elses_are_refused() {
    assert_eq!(settings(&[(variable::VETH_PREFIX, "cali")]).veth_prefix, "cali");
    for text in ["vethx", "eth", "lo", "vlan", "a/b", "a b"] {
        refused(variable::VETH_PREFIX, text);
    }
}

#[test]
fn flags_are_read_as_go_reads_them() {
    assert!(!settings(&[(variable::NO_EARLY_DEMUX, "True")]).early_demux);
    assert!(settings(&[(variable::NO_EARLY_DEMUX, "f")]).early_demux);
    assert!(!settings(&[(variable::NODE_PORTS, "0")]).node_ports);
    assert!(warned(variable::NODE_PORTS, "yes").node_ports);
    assert!(warned(variable::NO_EARLY_DEMUX, "yes").early_demux);
}

#[test]
fn lists_of_networks_skip_what_is_no_ipv4_cidr_and_clear_host_bits() {
    let set = settings(&[(variable::EXTERNAL_SERVICES, "198.51.100.7/24, 192.0.2.1/32")]);
    assert_eq!(set.external_services, nets(&["198.51.100.0/24", "192.0.2.1/32"]));
    let (set, warnings) = read(&[(variable::EXCLUDE_SNAT, "10.1.0.0/16,fd00::/8,ten,")]).expect("tolerated");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(set.snat, Snat::Node { exclude: nets(&["10.1.0.0/16"]), ports: SnatPorts::Prng });
}

#[test]
fn external_snat_and_ipv6_translate_nothing_and_ignore_exclusions() {
    let excluded = (variable::EXCLUDE_SNAT, "nonsense");
    assert_eq!(settings(&[(variable::EXTERNAL_SNAT, "true"), excluded]).snat, Snat::External);
    let v6 = settings(&[(variable::IPV6, "true"), excluded]);
    assert_eq!((v6.snat, v6.node_ports), (Snat::External, true));
}

#[test]
fn ports_of_snat_have_three_ways_and_a_fourth_is_prng() {
    let ports = |set: Settings| match set.snat {
        Snat::Node { ports, .. } => ports,
        Snat::External => panic!("the node translates"),
    };
    assert_eq!(ports(settings(&[(variable::RANDOMIZE_SNAT, "none")])), SnatPorts::Keep);
    assert_eq!(ports(settings(&[(variable::RANDOMIZE_SNAT, "hashrandom")])), SnatPorts::HashRandom);
    assert_eq!(ports(warned(variable::RANDOMIZE_SNAT, "dice")), SnatPorts::Prng);
}

#[test]
fn the_mark_is_a_number_as_c_writes_it() {
    for (text, mark) in [
        ("256", 256),
        ("0x100", 0x100),
        ("0B1000", 8),
        ("0o17", 15),
        ("017", 15),
        ("1_000", 1000),
        ("0xffff_ffff", u32::MAX),
    ] {
        assert_eq!(settings(&[(variable::MARK, text)]).mark, mark, "{text}");
    }
    for text in ["0", "0x0", "-1", "0x1ffffffff", "bit seven", "0x+1"] {
        assert_eq!(warned(variable::MARK, text).mark, 0x80, "{text}");
    }
}

#[test]
fn only_standard_pods_without_external_snat_leave_by_the_node() {
    let vpc: Vec<IpNet> = vec!["10.0.0.0/16".parse().expect("a CIDR"), "100.64.0.0/16".parse().expect("a CIDR")];
    let ways = |more: &[(&'static str, &str)]| {
        let texts: Vec<String> = settings(more).by_branch(&vpc).iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    assert_eq!(ways(&[(variable::MODE, "standard")]), "10.0.0.0/16 100.64.0.0/16");
    let excluded = [(variable::MODE, "standard"), (variable::EXCLUDE_SNAT, "198.51.100.0/24")];
    assert_eq!(ways(&excluded), "10.0.0.0/16 100.64.0.0/16 198.51.100.0/24");
    let all = "0.0.0.0/0 ::/0";
    assert_eq!(ways(&[(variable::MODE, "standard"), (variable::EXTERNAL_SNAT, "true")]), all);
    assert_eq!(ways(&[]), all);
}

#[test]
fn marked_packets_follow_main_for_node_ports_or_translation() {
    assert!(settings(&[(variable::NODE_PORTS, "false")]).follows_mark());
    assert!(settings(&[(variable::EXTERNAL_SNAT, "true")]).follows_mark());
    assert!(!settings(&[(variable::EXTERNAL_SNAT, "true"), (variable::NODE_PORTS, "false")]).follows_mark());
    assert!(settings(&[(variable::IPV6, "true")]).follows_mark());
    assert!(!settings(&[(variable::IPV6, "true"), (variable::NODE_PORTS, "false")]).follows_mark());
}
