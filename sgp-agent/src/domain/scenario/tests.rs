use etherparse::SlicedPacket;
use serde_json::{Value, json};

use super::*;
use crate::domain::groups::{Remote, Rule};
use crate::domain::observed::Timeouts;

/// A scenario with one step of each kind.
fn scenario() -> Value {
    json!({
        "SecurityGroups": [{
            "GroupId": "sg-web", "VpcId": "vpc-1", "Description": "printed, and nothing to us",
            "IpPermissions": [{
                "IpProtocol": "tcp", "FromPort": 80, "ToPort": 443,
                "IpRanges": [{"CidrIp": "10.0.2.20/8"}], "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}],
                "PrefixListIds": [{"PrefixListId": "pl-1"}], "UserIdGroupPairs": [{"GroupId": "sg-peer"}],
            }],
            "IpPermissionsEgress": [],
        }],
        "NetworkInterfaces": [{
            "NetworkInterfaceId": "eni-web", "MacAddress": "0A:00:00:00:00:01", "PrivateIpAddress": "10.0.1.10",
            "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.1.10", "Primary": true}, {"PrivateIpAddress": "10.0.1.11"}],
            "Ipv6Addresses": [{"Ipv6Address": "2001:db8:1::10"}], "Groups": [{"GroupId": "sg-web"}],
            "SubnetId": "subnet-1", "Status": "in-use",
        }],
        "PrefixLists": {"pl-1": ["192.0.2.0/24"]},
        "Endpoint": "eni-web",
        "Vpc": {"Cidrs": ["10.0.0.0/16"], "Subnets": [{"SubnetId": "subnet-1", "CidrBlock": "10.0.1.0/24"}]},
        "Steps": [
            {"at": 1.5, "expect": "allow", "packet": {
                "direction": "in", "protocol": "tcp", "source": "10.0.2.20", "destination": "10.0.1.10",
                "source_port": 40000, "destination_port": 80}},
            {"at": 2, "update": {"Endpoint": "eni-web"}},
            {"packet": {"direction": "out", "frame": "0a00 0000 0001"}},
        ],
    })
}

/// The scenario with another value at a JSON pointer, whose last part may be new.
fn with(pointer: &str, value: Value) -> String {
    let mut scenario = scenario();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match scenario.pointer_mut(parent).expect("a place in the scenario") {
        Value::Object(object) => drop(object.insert(key.to_owned(), value)),
        Value::Array(array) => array[key.parse::<usize>().expect("an index")] = value,
        other => panic!("{other} has no {key}"),
    }
    scenario.to_string()
}

fn read(text: &str) -> Scenario {
    Scenario::read(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A scenario of these packets.
fn packets(packets: &[Value]) -> Scenario {
    let steps: Vec<Value> = packets.iter().map(|packet| json!({ "packet": packet })).collect();
    read(&with("/Steps", steps.into()))
}

fn frames(scenario: &Scenario) -> Vec<Vec<u8>> {
    let of = |step: &'_ Step| match &step.action {
        Action::Packet(probe) => Some(probe.frame.clone()),
        Action::Update(_) => None,
    };
    scenario.steps.iter().filter_map(of).collect()
}

#[test]
fn bad_input_is_told_by_its_place() {
    for (pointer, value, told) in [
        ("/SecurityGroup", json!([]), "SecurityGroup: unknown field"),
        ("/Endpoint", json!("eni-x"), "Endpoint: \"eni-x\" is none"),
        ("/SecurityGroups", json!([]), "SecurityGroups: sg-web is missing, which eni-web carries"),
        ("/SecurityGroups/0/IpPermissions/0/ToPort", json!(70000), "SecurityGroups[0].IpPermissions[0]: 70000"),
        ("/SecurityGroups/0/IpPermissions/0/IpProtocol", json!("tpc"), "SecurityGroups[0].IpPermissions[0]: \"tpc\""),
        (
            "/SecurityGroups/0/IpPermissions/0/IpRanges/0/CidrIp",
            json!("10.0.0.0/33"),
            "SecurityGroups[0].IpPermissions[0].IpRanges[0].CidrIp: \"10.0.0.0/33\" is no CIDR",
        ),
        (
            "/SecurityGroups/0/IpPermissions/0/IpRanges/0/CidrIp",
            json!("::/0"),
            "SecurityGroups[0].IpPermissions[0].IpRanges[0].CidrIp: ::/0 is not of IPv4",
        ),
        ("/PrefixLists/pl-1", json!(["10.0.0.1"]), "PrefixLists.pl-1[0]: \"10.0.0.1\" is no CIDR"),
        ("/Vpc/Cidr", json!("10.0.0.0/16"), "Vpc.Cidr: unknown field"),
        ("/NetworkInterfaces/0/MacAddress", json!("0a:00"), "NetworkInterfaces[0].MacAddress: \"0a:00\""),
        (
            "/NetworkInterfaces/0/ConnectionTrackingSpecification",
            json!({"UdpTimeout": 29}),
            "NetworkInterfaces[0].ConnectionTrackingSpecification.UdpTimeout: 29 s: EC2 takes 30 to 60",
        ),
        ("/Steps/1/at", json!(1), "Steps[1].at: 1 s is before"),
        ("/Steps/0/at", json!(-1), "Steps[0].at: -1"),
        ("/Steps/0/at", json!("1s"), "Steps[0].at: invalid type"),
        ("/Steps/0/paket", json!({}), "Steps[0].paket: unknown field"),
        ("/Steps/0/update", json!({}), "Steps[0]: a step has either"),
        ("/Steps/1", json!({}), "Steps[1]: a step has either"),
        ("/Steps/1/expect", json!("drop"), "Steps[1].expect: an update has no verdict"),
        ("/Steps/1/update/Endpoint", json!("eni-2"), "Steps[1].update.Endpoint: \"eni-2\" is none"),
        ("/Steps/1/update/Endpoints", json!(1), "Steps[1].update.Endpoints: unknown field"),
        ("/Steps/0/expect", json!("pass"), "Steps[0].expect: unknown variant `pass`"),
        ("/Steps/0/packet/destination_port", json!(65536), "Steps[0].packet.destination_port: invalid value"),
        ("/Steps/0/packet/destination_port", Value::Null, "Steps[0].packet.destination_port: it is missing"),
        ("/Steps/0/packet/destination", json!("::1"), "Steps[0].packet.destination: ::1 is not of the family"),
        ("/Steps/0/packet/source", json!("10.0.2"), "Steps[0].packet.source: invalid IP address"),
        ("/Steps/0/packet/protocol", json!("tpc"), "Steps[0].packet.protocol: \"tpc\" is no protocol"),
        ("/Steps/0/packet/protocol", json!("50"), "Steps[0].packet.source_port: protocol 50 has no ports"),
        ("/Steps/0/packet/flags", json!("SX"), "Steps[0].packet.flags: 'X' is no TCP flag"),
        ("/Steps/0/packet/icmp_type", json!(8), "Steps[0].packet.icmp_type: protocol tcp has no ICMP header"),
        ("/Steps/0/packet/fragment", json!({"id": 1, "offset": 4}), "Steps[0].packet.fragment.offset: 4 is no"),
        ("/Steps/0/packet/fragment", json!({"id": 65536}), "Steps[0].packet.fragment.id: 65536"),
        ("/Steps/0/packet/source_prot", json!(1), "Steps[0].packet.source_prot: unknown field"),
        ("/Steps/2/packet/frame", json!("0a0"), "Steps[2].packet.frame: no hexadecimal bytes"),
        ("/Steps/2/packet/source_port", json!(1), "Steps[2].packet.source_port: the frame says it already"),
    ] {
        let error = Scenario::read(&with(pointer, value)).expect_err(pointer);
        assert!(error.starts_with(told), "{pointer}: {error}");
    }
    assert!(Scenario::read("{").expect_err("no JSON").contains("line 1"));
    assert!(Scenario::read(&format!("{} 1", scenario())).expect_err("more").starts_with("behind the scenario"));
}

#[test]
fn what_is_there_twice_is_told() {
    let group = scenario()["SecurityGroups"][0].clone();
    let twice = with("/SecurityGroups", json!([group, group]));
    assert_eq!(Scenario::read(&twice).expect_err("twice"), "SecurityGroups[1]: sg-web is there twice");
    let interface = scenario()["NetworkInterfaces"][0].clone();
    let mut other = interface.clone();
    other["NetworkInterfaceId"] = "eni-other".into();
    let error = Scenario::read(&with("/NetworkInterfaces", json!([interface, other]))).expect_err("one address");
    assert_eq!(error, "NetworkInterfaces[1]: eni-other has the address 10.0.1.10, which eni-web has too");
}

#[test]
fn each_peer_is_a_rule_that_is_called_by_its_id_or_by_what_it_says() {
    let permission = json!([{
        "IpProtocol": "tcp", "FromPort": 80, "ToPort": 443,
        "IpRanges": [{"CidrIp": "10.0.2.20/8"}, {"CidrIp": "192.0.2.0/24", "SecurityGroupRuleId": "sgr-1"}],
        "Ipv6Ranges": [{"CidrIpv6": "::/0"}], "PrefixListIds": [{"PrefixListId": "pl-1"}],
        "UserIdGroupPairs": [{"GroupId": "sg-a"}, {"GroupId": "sg-b", "PeeringStatus": "deleted"}],
    }, {"IpProtocol": "icmp", "FromPort": 3, "ToPort": 4, "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
        "SecurityGroupRuleId": "sgr-2"}]);
    let world = read(&with("/SecurityGroups/0/IpPermissions", permission)).start;
    let rules: Vec<&Rule> = world.cloud.groups["sg-web"].rules.iter().collect();
    let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    let expected = [
        "ingress tcp 80-443 10.0.0.0/8",
        "sgr-1",
        "ingress tcp 80-443 ::/0",
        "ingress tcp 80-443 pl-1",
        "ingress tcp 80-443 sg-a",
        "ingress tcp 80-443 sg-b (stale)",
        "sgr-2",
    ];
    assert_eq!(ids, expected);
    assert_eq!(rules[5].remote, Remote::Stale("sg-b".into()));
}

#[test]
fn an_interface_has_all_its_addresses_once_and_its_own_timeouts() {
    let tracking = json!({"TcpEstablishedTimeout": 60});
    let world = read(&with("/NetworkInterfaces/0/ConnectionTrackingConfiguration", tracking)).start;
    let interface = &world.cloud.interfaces["eni-web"];
    let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.1.10", "10.0.1.11", "2001:db8:1::10"]);
    assert_eq!(interface.timeouts, Timeouts { tcp_established_s: 60, ..Timeouts::default() });
    assert_eq!(interface.mac, "0a:00:00:00:00:01");
}

#[test]
fn the_router_is_known_where_the_subnet_is() {
    let router = |text: &str| read(text).start.cloud.instance.subnet_cidr.map(|net| net.to_string());
    assert_eq!(router(&scenario().to_string()).as_deref(), Some("10.0.1.0/24"));
    assert_eq!(router(&with("/Vpc/Subnets", json!([]))), None);
}

#[test]
fn an_update_replaces_whole_keys_and_leaves_the_others() {
    let update = json!({"PrefixLists": {"pl-2": []}, "NetworkInterfaces": [{
        "NetworkInterfaceId": "eni-web", "PrivateIpAddress": "10.0.1.99", "Groups": [{"GroupId": "sg-web"}]}]});
    let scenario = read(&with("/Steps/1/update", update));
    let Action::Update(world) = &scenario.steps[1].action else { panic!("the second step is an update") };
    assert!(world.cloud.prefix_lists.keys().eq(["pl-2"]));
    assert_eq!(world.cloud.groups, scenario.start.cloud.groups);
    assert_eq!(world.cloud.interfaces["eni-web"].addresses.len(), 1);
    assert_eq!(scenario.steps[1].words, "new NetworkInterfaces, PrefixLists");
}

#[test]
fn steps_happen_when_they_say_or_with_the_step_before() {
    let times: Vec<u64> = read(&scenario().to_string()).steps.iter().map(|step| step.at_ns).collect();
    assert_eq!(times, [1_500_000_000, 2_000_000_000, 2_000_000_000]);
}

#[test]
fn frames_are_whole_and_their_checksums_right() {
    let ends = [("10.0.2.20", "10.0.1.10"), ("2001:db8::5", "2001:db8:1::10")];
    for (index, (source, destination)) in ends.into_iter().enumerate() {
        let icmp = ["icmp", "icmpv6"][index];
        let ports = json!({"source_port": 40000, "destination_port": 80});
        let mut all = Vec::new();
        for (protocol, more) in [
            ("tcp", ports.clone()),
            ("udp", ports),
            (icmp, json!({"icmp_type": 8, "icmp_code": 3, "icmp_id": 77})),
            ("50", json!({})),
        ] {
            let mut packet =
                json!({"direction": "in", "protocol": protocol, "source": source, "destination": destination});
            packet.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            all.push(packet);
        }
        for frame in frames(&packets(&all)) {
            SlicedPacket::from_ethernet(&frame).expect("a frame without contradictions");
            check_sums(&frame);
        }
    }
}

/// RFC 1071: words and checksum add up to all ones.
fn check_sums(frame: &[u8]) {
    let v4 = frame[12..14] == [8, 0];
    let (ends, protocol, segment) =
        if v4 { (&frame[26..34], frame[23], &frame[34..]) } else { (&frame[22..54], frame[20], &frame[54..]) };
    if v4 {
        assert_eq!(sum(&frame[14..34]), u16::MAX, "{frame:02x?}");
    }
    let pseudo = [ends, &[0, protocol, 0, segment.len() as u8]].concat();
    match (v4, protocol) {
        (_, 50) => {}
        (true, 1) => assert_eq!(sum(segment), u16::MAX, "{frame:02x?}"),
        _ => assert_eq!(sum(&[&pseudo, segment].concat()), u16::MAX, "{frame:02x?}"),
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn frames_leave_with_the_interfaces_own_mac_and_come_with_anothers() {
    let ends = json!({"protocol": "50", "source": "10.0.1.10", "destination": "10.0.2.20"});
    let mut directions = [ends.clone(), ends];
    directions[0]["direction"] = "out".into();
    directions[1]["direction"] = "in".into();
    let scenario = packets(&directions);
    let own = [0x0a, 0, 0, 0, 0, 1];
    let frames = frames(&scenario);
    assert_eq!((&frames[0][6..12], &frames[1][0..6]), (&own[..], &own[..]));
    assert_ne!(frames[1][6..12], own);
}

#[test]
fn a_tcp_packet_without_flags_opens_its_connection_or_goes_on_with_it() {
    let tcp = |direction: &str, source: (&str, u16), destination: (&str, u16), flags: Option<&str>| {
        json!({"direction": direction, "protocol": "tcp", "source": source.0, "destination": destination.0,
            "source_port": source.1, "destination_port": destination.1, "flags": flags})
    };
    let (a, pod) = (("10.0.2.20", 40000), ("10.0.1.10", 80));
    let scenario = packets(&[
        tcp("in", a, pod, None),
        tcp("out", pod, a, None),
        tcp("in", a, pod, None),
        tcp("in", ("10.0.2.20", 40001), pod, Some("FPU")),
        tcp("in", ("10.0.2.20", 40001), pod, None),
        tcp("in", ("10.0.2.20", 40002), pod, Some("")),
    ]);
    let flags: Vec<u8> = frames(&scenario).into_iter().map(|frame| frame[14 + 20 + 13]).collect();
    assert_eq!(flags, [0x02, 0x10, 0x10, 0x29, 0x10, 0]);
    assert!(scenario.steps[3].words.ends_with(" FPU") && scenario.steps[5].words.ends_with(" -"));
}

#[test]
fn a_fragment_reaches_up_to_the_next_and_later_ones_have_no_ports() {
    for (source, destination, header) in [("10.0.2.20", "10.0.1.10", 20), ("2001:db8::5", "2001:db8:1::10", 48)] {
        let fragment = |offset: u32, more: bool| {
            json!({"direction": "in", "protocol": "udp", "source": source, "destination": destination,
                "source_port": 5, "destination_port": 53, "fragment": {"id": 7, "offset": offset, "more": more}})
        };
        let scenario = packets(&[fragment(0, true), fragment(24, true), fragment(64, false), fragment(0, false)]);
        let lengths: Vec<usize> = frames(&scenario).iter().map(|frame| frame.len() - 14 - header).collect();
        assert_eq!(lengths, [24, 40, 8, 16]);
        assert!(!scenario.steps[1].words.contains(":53"), "{}", scenario.steps[1].words);
        let alone = packets(&[fragment(0, true)]);
        assert_eq!(frames(&alone)[0].len(), 14 + header + 1480);
        let tiny = packets(&[fragment(0, true), fragment(0, true), fragment(8, false)]);
        assert_eq!(frames(&tiny).iter().map(|frame| frame.len() - 14 - header).collect::<Vec<_>>(), [8, 8, 8]);
    }
}
