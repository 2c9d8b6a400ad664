//! Holds what is pinned and what is shared between programs and agents of one `ABI_VERSION` against a golden
//! file. A difference means either that the change was not meant, or that `ABI_VERSION` has to go up with it:
//! then `SGP_BLESS=1 cargo test -p sgp-common --test abi` writes the file anew.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use sgp_common::endpoint::{Endpoint, EndpointName, Interface, Side, Timeouts, settings};
use sgp_common::event::{Counter, Counts, Event, Outcome, Sampler};
use sgp_common::flow::{Admission, Asker, Flow, FlowKey, FlowState, Tracking, Way};
use sgp_common::fragment::{Fragment, FragmentKey};
use sgp_common::policy::{self, Answer, Axis, Peer, RuleKey, RuleName, RuleSet, Selector, hints};
use sgp_common::snat::{Node, SnatEntry, SnatKey, SnatPolicy, SnatPorts};
use sgp_common::{ABI_VERSION, Addr, Direction, DropReason, Family, Verdict, limits, pins, verdict};

/// Size of the field a closure points at; never called.
const fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// One struct: the destructuring refuses to compile while a field is missing from the list, and the sum of
/// the fields is the whole, so nothing is left to hidden padding.
macro_rules! layout {
    ($out:expr, $name:ident { $($field:ident),+ $(,)? }) => {{
        let _every_field = |value: $name| { let $name { $($field: _),+ } = value; };
        writeln!($out, "struct {} size {} align {}", stringify!($name), size_of::<$name>(), align_of::<$name>())?;
        let mut sum = 0;
        $(
            let size = field_size(|value: &$name| &value.$field);
            sum += size;
            writeln!($out, "  {:>3} {:>3} {}", std::mem::offset_of!($name, $field), size, stringify!($field))?;
        )+
        assert_eq!(sum, size_of::<$name>(), "{} has padding that no field names", stringify!($name));
    }};
}

/// One enum: the match refuses to compile while a variant is missing.
macro_rules! values {
    ($out:expr, $name:ident { $($variant:ident),+ $(,)? }) => {{
        let _every_variant = |value: $name| match value { $($name::$variant => ()),+ };
        writeln!($out, "enum {} size {}", stringify!($name), size_of::<$name>())?;
        $( writeln!($out, "  {} {}", $name::$variant as u8, stringify!($variant))?; )+
    }};
}

macro_rules! constants {
    ($out:expr, $module:ident { $($name:ident),+ $(,)? }) => {{
        $( writeln!($out, "const {}::{} {}", stringify!($module), stringify!($name), $module::$name)?; )+
    }};
}

fn structs(out: &mut String) -> std::fmt::Result {
    layout!(out, Addr { bytes });
    layout!(out, Interface { endpoint, side, reserved });
    layout!(out, Timeouts { tcp_established_s, udp_s, udp_stream_s });
    layout!(
        out,
        Endpoint {
            group_set,
            ipv4,
            ipv6,
            router,
            resolver,
            branch_ifindex,
            host_ifindex,
            timeouts,
            settings,
            vlan_id,
            pod_mac
        }
    );
    layout!(out, EndpointName { interface_id, namespace, pod, uid });
    layout!(out, Selector { direction, family, axis, reserved, data, padding });
    layout!(out, Peer { group_set });
    layout!(out, RuleSet { words });
    layout!(out, Answer { rules, digest, hints });
    layout!(out, RuleKey { policy_digest, rule, direction, family, reserved });
    layout!(out, RuleName { rule_id, group_id });
    layout!(out, Peer { group_set });
    Ok(())
}

fn structs_of_packets(out: &mut String) -> std::fmt::Result {
    layout!(
        out,
        FlowKey { endpoint, local_addr, remote_addr, local_port, remote_port, protocol, query, asker, reserved }
    );
    layout!(out, Admission { policy_digest, revision, rule, tracking, direction, nat_port, way, padding });
    layout!(
        out,
        Flow {
            last_seen_ns,
            policy_digest,
            revision,
            packets_in,
            packets_out,
            bytes_in,
            bytes_out,
            rule,
            state,
            opened,
            fins,
            turns,
            tracking,
            icmp_code,
            nat_port,
            way,
            reserved
        }
    );
    layout!(out, FragmentKey { endpoint, source, destination, id, protocol, direction, reserved });
    layout!(out, Fragment { seen_ns, admission, endpoint, local_addr, end, reserved });
    layout!(out, SnatKey { remote_addr, remote_port, nat_port, protocol, query, reserved });
    layout!(out, SnatEntry { endpoint, local_addr, local_port, reserved });
    layout!(out, Node { endpoint, addr, gateway, ifindex, first_port, last_port, policy, ports, reserved, mark });
    layout!(out, Counts { inbound, outbound });
    layout!(out, Counter { packets, bytes });
    layout!(
        out,
        Event {
            time_ns,
            endpoint,
            policy_digest,
            local_addr,
            remote_addr,
            local_port,
            remote_port,
            ifindex,
            length,
            rule,
            protocol,
            direction,
            reason,
            flags,
            reserved
        }
    );
    layout!(out, Outcome { endpoint, policy_digest, rule, direction, reason, verdict, rule_direction, reserved });
    layout!(out, Sampler { second, emitted });
    Ok(())
}

fn enums(out: &mut String) -> std::fmt::Result {
    values!(out, Family { V4, V6 });
    values!(out, Direction { Inbound, Outbound });
    values!(out, Side { Pod, Branch });
    values!(out, Axis { Digest, Remote, Peer, Service });
    values!(out, SnatPolicy { Node, Pod, Both });
    values!(out, SnatPorts { Random, Hash, Keep });
    values!(out, Asker { Nobody, Local, Remote });
    values!(out, Tracking { Tracked, Untracked });
    values!(out, Way { Branch, Node, Plain, Short });
    values!(out, FlowState { Opening, Established, Stream, Closing, Closed });
    values!(out, Verdict { Rule, Flow, Exempt, Passed });
    values!(
        out,
        DropReason {
            Malformed,
            UnknownEndpoint,
            SpoofedSource,
            NoPolicy,
            NoMatchingRule,
            FragmentWithoutFlow,
            UnsupportedProtocol,
            FlowTableFull,
            EndpointFlowLimit,
            SnatPortsExhausted,
            SnatUnsupported,
            RewriteFailed
        }
    );
    Ok(())
}

fn constants(out: &mut String) -> std::fmt::Result {
    constants!(out, policy { HEAD_BITS, FULL_BITS, PEER_BITS, PROTOCOL_BITS, SERVICE_BITS });
    constants!(out, verdict { MARK_JUDGED, MARK_BY_NODE });
    constants!(out, settings { RELATED_ICMP, CUT_ON_REVOKE, SNAT, NODE_PORTS });
    constants!(out, hints { UNTRACKED_TCP, UNTRACKED_UDP, BY_ADDRESS, BY_GROUP });
    constants!(
        out,
        limits {
            RULES_MAX,
            RULE_WORDS,
            POLICY_KEYS_MAX,
            POLICIES_MAX,
            PEERS_MAX,
            ENDPOINTS_MAX,
            INTERFACES_MAX,
            FLOWS_MAX,
            ENDPOINT_FLOWS_MAX,
            FRAGMENTS_MAX,
            SNAT_MAX,
            SNAT_EXCLUDED_MAX,
            STACK_NETS_MAX,
            SNAT_PORT_FIRST,
            SNAT_PORT_LAST,
            VLAN_IDS_MAX,
            RULE_NAMES_MAX,
            EVENTS_BYTES
        }
    );
    Ok(())
}

fn names(out: &mut String) -> std::fmt::Result {
    writeln!(out, "root {}", pins::ROOT)?;
    for dir in [pins::MAPS, pins::LINKS, pins::PROGRAMS, pins::POLICIES] {
        writeln!(out, "directory {dir}")?;
    }
    for name in pins::map::ALL {
        writeln!(out, "map {name}")?;
    }
    for name in pins::program::ALL {
        writeln!(out, "program {name}")?;
    }
    Ok(())
}

fn described() -> String {
    let mut out = format!("ABI_VERSION {ABI_VERSION}\n");
    let parts = [structs, structs_of_packets, enums, constants, names];
    parts.iter().try_for_each(|part| part(&mut out)).expect("a String takes every text");
    out
}

#[test]
fn layouts_values_names_and_limits_are_those_of_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi.golden");
    let found = described();
    if env::var_os("SGP_BLESS").is_some() {
        fs::write(&path, &found).expect("the golden file can be written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = found.lines().zip(golden.lines().chain(std::iter::repeat("(nothing)")));
    if let Some((now, before)) = lines.find(|(now, before)| now != before) {
        panic!("the ABI changed: `{before}` is now `{now}`. Raise ABI_VERSION, then SGP_BLESS=1");
    }
    assert_eq!(found.lines().count(), golden.lines().count(), "the golden file says more than the code");
}

#[test]
fn every_shared_struct_is_in_the_golden_file() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let described = described();
    let within = |path: PathBuf| fs::read_dir(path).expect("a directory").flatten().map(|entry| entry.path());
    let (dirs, files): (Vec<_>, Vec<_>) = within(src).partition(|path| path.is_dir());
    for path in files.into_iter().chain(dirs.into_iter().flat_map(within)) {
        let source = fs::read_to_string(path).expect("a source file");
        let shared = source.lines().filter_map(|line| line.strip_prefix("plain!(")?.strip_suffix(");"));
        for name in shared.flat_map(|names| names.split(", ")) {
            assert!(described.contains(&format!("struct {name} ")), "{name} is shared: add it to `structs` above");
        }
    }
}

#[test]
fn names_of_maps_programs_and_policies_fit_what_the_kernel_keeps() {
    for name in pins::map::ALL.iter().chain(&pins::program::ALL) {
        assert!(name.len() <= 15, "the kernel cuts {name} to 15 bytes");
    }
}

#[test]
fn reasons_are_read_back_by_their_code_and_zero_is_none_of_them() {
    for reason in DropReason::ALL {
        assert_eq!(DropReason::from_code(reason as u8), Some(reason));
        assert_eq!(format!("{reason:?}"), reason.name());
    }
    assert_eq!(DropReason::from_code(0), None);
    assert_eq!(DropReason::from_code(u8::MAX), None);
}
