//! The annotation a pod is wired from (facts 1.5).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::{Map, Value, json};

use super::observed::BranchAnnotation;

/// Key of the annotation.
pub const POD_ENI: &str = "vpc.amazonaws.com/pod-eni";

/// The annotation's text: an array of one element with every key, as AWS's resource controller writes it.
pub fn write(branch: &BranchAnnotation) -> String {
    json!([{
        "eniId": branch.interface_id,
        "ifAddress": branch.mac,
        "privateIp": text(branch.private_ip),
        "ipv6Addr": text(branch.ipv6_addr),
        "vlanId": branch.vlan_id,
        "subnetCidr": text(branch.subnet_cidr),
        "subnetV6Cidr": text(branch.subnet_v6_cidr),
        "associationID": branch.association_id.clone().unwrap_or_default(),
    }])
    .to_string()
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Reads the first element. Keys are matched whatever their case: AWS's own parts write `vlanId` and read
/// `vlanID`.
///
/// # Errors
/// A sentence that names the key.
pub fn parse(text: &str) -> Result<BranchAnnotation, String> {
    let array: Vec<Map<String, Value>> =
        serde_json::from_str(text).map_err(|error| format!("the annotation {POD_ENI} is no JSON array: {error}"))?;
    let element = array.first().ok_or_else(|| format!("the annotation {POD_ENI} is an empty array"))?;
    let branch = BranchAnnotation {
        interface_id: string(element, "eniId").ok_or_else(|| missing("eniId"))?,
        mac: string(element, "ifAddress").ok_or_else(|| missing("ifAddress"))?.to_lowercase(),
        private_ip: parsed::<Ipv4Addr>(element, "privateIp")?,
        ipv6_addr: parsed::<Ipv6Addr>(element, "ipv6Addr")?,
        vlan_id: vlan(element)?,
        subnet_cidr: parsed::<Ipv4Net>(element, "subnetCidr")?,
        subnet_v6_cidr: parsed::<Ipv6Net>(element, "subnetV6Cidr")?,
        association_id: string(element, "associationID"),
    };
    if branch.private_ip.is_none() && branch.ipv6_addr.is_none() {
        return Err(missing("privateIp or ipv6Addr"));
    }
    Ok(branch)
}

fn get<'a>(element: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    element.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

/// A text that is there and not empty.
fn string(element: &Map<String, Value>, key: &str) -> Option<String> {
    get(element, key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn parsed<T: FromStr>(element: &Map<String, Value>, key: &str) -> Result<Option<T>, String> {
    let Some(text) = string(element, key) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("the annotation {POD_ENI} has {key} = {text:?}, which cannot be read"))
}

fn vlan(element: &Map<String, Value>) -> Result<u16, String> {
    let value = get(element, "vlanId").and_then(Value::as_u64).ok_or_else(|| missing("vlanId"))?;
    match u16::try_from(value) {
        Ok(id) if (1..=4094).contains(&id) => Ok(id),
        _ => Err(format!("the annotation {POD_ENI} has vlanId = {value}, which is no VLAN id")),
    }
}

fn missing(key: &str) -> String {
    format!("the annotation {POD_ENI} has no {key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"[{"eniId":"eni-0123456789abcdef0","ifAddress":"06:74:5b:7b:54:3a","privateIp":"10.105.49.186","ipv6Addr":"","vlanId":2,"subnetCidr":"10.105.49.128/26","subnetV6Cidr":"","associationID":"trunk-assoc-0a1b2c"}]"#;

    #[test]
    fn what_awss_controller_writes_is_read_and_written_back_the_same() {
        let branch = parse(EXAMPLE).expect("the example of the facts");
        assert_eq!(branch.vlan_id, 2);
        let again: Value = serde_json::from_str(&write(&branch)).expect("JSON");
        assert_eq!(again, serde_json::from_str::<Value>(EXAMPLE).expect("JSON"));
    }

    #[test]
    fn the_case_of_keys_and_a_missing_association_do_not_matter() {
        let other = EXAMPLE.replace("vlanId", "vlanID").replace("ipv6Addr", "ipv6addr");
        let other = other.replace(r#","associationID":"trunk-assoc-0a1b2c""#, "");
        assert_eq!(parse(&other).expect("another writer").association_id, None);
    }

    #[test]
    fn each_broken_annotation_is_told_by_its_key() {
        for (text, word) in [
            ("no json", "no JSON array"),
            ("[]", "empty array"),
            (r#"[{"ifAddress":"a"}]"#, "eniId"),
            (&EXAMPLE.replace("\"vlanId\":2", "\"vlanId\":0"), "vlanId = 0"),
            (&EXAMPLE.replace("10.105.49.186", "10.105.49"), "privateIp"),
            (&EXAMPLE.replace("10.105.49.186", ""), "privateIp or ipv6Addr"),
        ] {
            let error = parse(text).expect_err("it is broken");
            assert!(error.contains(word) && error.contains(POD_ENI), "{error}");
        }
    }
}
