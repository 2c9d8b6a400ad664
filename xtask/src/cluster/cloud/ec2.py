"""moto's EC2 server with what it lacks for trunks and branches. The additions are ours, not moto's.

Added: AssociateTrunkInterface, DescribeTrunkInterfaceAssociations, DisassociateTrunkInterface, InterfaceType, ClientToken
of CreateNetworkInterface, Create- and DescribeNetworkInterfacePermissions, DeleteOnTermination of an attachment,
AssignIpv6AddressOnCreation of a subnet, refusal of unknown groups, of more than five groups on an interface, of deleting
an interface or a group in use, of a device index that is taken, and of requests that are not as the AWS SDK's model of EC2
has them (shapes.py); calls that take time and are throttled like EC2's,
where SGP_EC2_LATENCY_MS and SGP_EC2_BUCKET ("50:5": so many at once and so many a second, of each action that changes
something) say so. A group created with the description "id=sg-..." gets that id, so that tests
can bring a missing group into being; EC2 itself would not.

Usage: ec2.py HOOK MOTO_SERVER_ARGS...
HOOK is the VPC: it is run as `HOOK associate|disassociate NODE VLAN MAC ADDRESS...` after a branch joined or left a trunk, and as
`HOOK trunk NODE MAC` after a trunk was attached.
A VPC that asks for an IPv6 CIDR gets that of the environment variable SGP_VPC_IPV6.
"""
import ipaddress
import os
import random
import re
import subprocess
import sys
import threading
import time

import shapes
from moto.core.responses import ActionResult
from moto.ec2.models import vpcs
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

HOOK = sys.argv[1]
GROUPS_OF_AN_INTERFACE = 5
LATENCY_S = float(os.environ.get("SGP_EC2_LATENCY_MS", "0")) / 1000
BUCKET = [float(part) for part in os.environ.get("SGP_EC2_BUCKET", "").split(":") if part]


class Refused(EC2ClientError):
    def __init__(self, code, message):
        super().__init__(code, message)


def new_id(prefix):
    return prefix + "".join(random.choices("0123456789abcdef", k=17))


def instances(backend):
    return {i.id: i for r in backend.describe_reservations() for i in r.instances}


def tag(thing, key):
    return next((t["value"] for t in thing.get_tags() if t["key"] == key), "")


def associations(backend):
    return backend.__dict__.setdefault("_sgp_associations", {})


def attachment_of(eni):
    return getattr(eni, "instance", None), getattr(eni, "device_index", None)


def call_hook(verb, backend, association):
    trunk = backend.enis.get(association["TrunkInterfaceId"])
    branch = backend.enis.get(association["BranchInterfaceId"])
    instance = attachment_of(trunk)[0] if trunk else None
    if instance is None or branch is None:
        return
    addresses = [a["PrivateIpAddress"] for a in branch.private_ip_addresses] + list(branch.ipv6_addresses)
    command = [*HOOK.split(), verb, tag(instance, "Name"), str(association["VlanId"]), branch.mac_address, *addresses]
    subprocess.run(command, check=True)


def permissions(backend):
    return backend.__dict__.setdefault("_sgp_permissions", {})


def check_groups(backend, groups):
    for group in groups:
        if not backend.get_security_group_from_id(group):
            raise Refused("InvalidSecurityGroupID.NotFound", f"The security group '{group}' does not exist")
    if len(groups) > GROUPS_OF_AN_INTERFACE:
        text = f"user 123456789012 exceeded limit {GROUPS_OF_AN_INTERFACE} on the number of interface security group memberships"
        raise Refused("InvalidParameterValue", text)


class Buckets:
    """Tokens of each action that changes something, as EC2 throttles them."""

    def __init__(self, size, rate):
        self.size, self.rate, self.left, self.lock = size, rate, {}, threading.Lock()

    def take(self, action):
        with self.lock:
            now = time.monotonic()
            tokens, since = self.left.get(action, (self.size, now))
            tokens = min(self.size, tokens + (now - since) * self.rate)
            self.left[action] = (max(tokens - 1, 0) if tokens >= 1 else tokens, now)
            return tokens >= 1


BUCKETS = Buckets(*BUCKET) if BUCKET else None
# Actions whose requests were held against the model so far; sgp-dev test reads of each in the log.
SEEN = set()
# moto serves each call in a thread of its own, and what is added here looks before it changes.
ONE_AT_A_TIME = threading.Lock()
original_call = EC2Response.call_action
original_modify = EC2Response.modify_network_interface_attribute


def call_action(self):
    action = self._get_action()
    reads = action.startswith(("Describe", "Get", "List", "Search"))
    time.sleep(LATENCY_S)
    try:
        shapes.check(action, {name: values[0] for name, values in self.querystring.items()})
    except shapes.Misshapen as error:
        return self.serialized(ActionResult(Refused(error.code, str(error))))
    if action not in SEEN:
        SEEN.add(action)
        # One write a line: other threads write here too.
        print(f"requests like the model's: {action}\n", end="", flush=True)
    if BUCKETS and not reads and not BUCKETS.take(action):
        return self.serialized(ActionResult(Refused("RequestLimitExceeded", "Request limit exceeded.")))
    with ONE_AT_A_TIME:
        return original_call(self)


original_create = EC2Response.create_network_interface
original_delete = EC2Response.delete_network_interface
original_attach = EC2Response.attach_network_interface
original_create_group = EC2Response.create_security_group
original_delete_group = EC2Response.delete_security_group


def wrong(backend, eni):
    """Whether EC2 would give this address: it keeps a subnet's first four and its last, and none is two interfaces'."""
    subnet, address = ipaddress.ip_network(eni.subnet.cidr_block), ipaddress.ip_address(eni.private_ip_address)
    taken = any(e.id != eni.id and e.private_ip_address == eni.private_ip_address for e in backend.enis.values() if e.subnet.id == eni.subnet.id)
    return taken or int(address) - int(subnet.network_address) < 4 or address == subnet.broadcast_address


def create_network_interface(self):
    backend = self.ec2_backend
    tokens = backend.__dict__.setdefault("_sgp_tokens", {})
    token = self._get_param("ClientToken")
    asked = repr([self._get_param(key) for key in ("SubnetId", "Groups", "TagSpecifications", "InterfaceType")])
    if token in tokens and tokens[token][0] in backend.enis:
        if tokens[token][1] != asked:
            raise Refused("IdempotentParameterMismatch", f"The client token '{token}' was used with other parameters")
        return ActionResult({"NetworkInterface": backend.enis[tokens[token][0]]})
    check_groups(backend, self._get_param("SecurityGroupIds") or self._get_param("Groups") or [])
    before = set(backend.enis)
    answer = original_create(self)
    while any(wrong(backend, backend.enis[new]) for new in set(backend.enis) - before):
        for new in set(backend.enis) - before:
            backend.delete_network_interface(new)
        answer = original_create(self)
    for new in set(backend.enis) - before:
        backend.enis[new].interface_type = self._get_param("InterfaceType") or "interface"
        assign_ipv6_on_creation(backend, backend.enis[new])
        if token:
            tokens[token] = (new, asked)
    return answer


def assign_ipv6_on_creation(backend, eni):
    wanted = eni.subnet.assign_ipv6_address_on_creation in (True, "true")
    if wanted and not eni.ipv6_addresses:
        backend.assign_ipv6_addresses(eni.id, ipv6_count=1)


def delete_network_interface(self):
    backend, interface = self.ec2_backend, self._get_param("NetworkInterfaceId")
    eni = backend.enis.get(interface)
    for association in associations(backend).values():
        if interface in (association["BranchInterfaceId"], association["TrunkInterfaceId"]):
            raise Refused("InvalidParameterValue", f"Network interface '{interface}' is currently in use.")
    if eni is not None and attachment_of(eni)[0] is not None:
        raise Refused("InvalidParameterValue", f"Network interface '{interface}' is currently in use.")
    return original_delete(self)


def attach_network_interface(self):
    backend = self.ec2_backend
    instance, index = self._get_param("InstanceId"), int(self._get_param("DeviceIndex"))
    for eni in backend.enis.values():
        owner, taken = attachment_of(eni)
        if owner is not None and owner.id == instance and taken == index:
            raise Refused("InvalidParameterValue", f"Instance '{instance}' already has an interface attached at device index '{index}'.")
    answer = original_attach(self)
    trunk = backend.enis.get(self._get_param("NetworkInterfaceId"))
    if trunk is not None and trunk.interface_type == "trunk":
        name = tag(attachment_of(trunk)[0], "Name")
        subprocess.run([*HOOK.split(), "trunk", name, trunk.mac_address], check=True)
    return answer


def modify_network_interface_attribute(self):
    backend, interface = self.ec2_backend, self._get_param("NetworkInterfaceId")
    check_groups(backend, self._get_param("Groups") or [])
    attachment = self._get_param("Attachment") or {}
    if "DeleteOnTermination" in attachment:
        backend.get_network_interface(interface).delete_on_termination = str(attachment["DeleteOnTermination"]).lower() == "true"
    return original_modify(self)


def create_network_interface_permission(self):
    backend, interface = self.ec2_backend, self._get_param("NetworkInterfaceId")
    backend.get_network_interface(interface)
    made = {
        "NetworkInterfacePermissionId": new_id("eni-perm-"),
        "NetworkInterfaceId": interface,
        "AwsAccountId": self._get_param("AwsAccountId"),
        "Permission": self._get_param("Permission"),
        "PermissionState": {"State": "GRANTED"},
    }
    permissions(backend)[made["NetworkInterfacePermissionId"]] = made
    return ActionResult({"InterfacePermission": made})


def describe_network_interface_permissions(self):
    backend = self.ec2_backend
    wanted = [v for f in self._get_param("Filters") or [] if f["Name"].endswith("aws-account-id") for v in f["Values"]]
    found = [p for p in permissions(backend).values() if p["NetworkInterfaceId"] in backend.enis]
    return ActionResult({"NetworkInterfacePermissions": [p for p in found if not wanted or p["AwsAccountId"] in wanted]})


def create_security_group(self):
    answer = original_create_group(self)
    wanted = re.fullmatch(r"id=(sg-[0-9a-f]+)", self._get_param("GroupDescription") or self._get_param("Description") or "")
    if wanted:
        rename_newest_group(self.ec2_backend, wanted.group(1))
        return ActionResult({"GroupId": wanted.group(1)})
    return answer


def rename_newest_group(backend, wanted):
    for groups in backend.groups.values():
        for known, group in list(groups.items()):
            if group.description == f"id={wanted}" and known != wanted:
                group.id = group.group_id = wanted
                groups[wanted] = groups.pop(known)


def delete_security_group(self):
    group = self._get_param("GroupId")
    for eni in self.ec2_backend.enis.values():
        if group in [one.id for one in eni.group_set]:
            raise Refused("DependencyViolation", f"resource {group} has a dependent object")
    return original_delete_group(self)


def associate_trunk_interface(self):
    backend, get = self.ec2_backend, self._get_param
    branch, trunk, vlan = get("BranchInterfaceId"), get("TrunkInterfaceId"), int(get("VlanId"))
    branch_eni, trunk_eni = backend.get_network_interface(branch), backend.get_network_interface(trunk)
    if getattr(trunk_eni, "interface_type", "") != "trunk" or attachment_of(trunk_eni)[0] is None:
        raise Refused("InvalidParameterValue", f"{trunk} is not an attached trunk interface")
    for known in associations(backend).values():
        if known["BranchInterfaceId"] == branch:
            raise Refused("Resource.AlreadyAssociated", f"{branch} is already associated")
        if known["TrunkInterfaceId"] == trunk and known["VlanId"] == vlan:
            raise Refused("InvalidParameterValue", f"VLAN {vlan} is in use on {trunk}")
    made = {
        "AssociationId": new_id("trunk-assoc-"),
        "BranchInterfaceId": branch,
        "TrunkInterfaceId": trunk,
        "InterfaceProtocol": "VLAN",
        "VlanId": vlan,
    }
    associations(backend)[made["AssociationId"]] = made
    branch_eni.status = "in-use"
    branch_eni.interface_type = "branch"
    call_hook("associate", backend, made)
    return ActionResult({"InterfaceAssociation": made})


def describe_trunk_interface_associations(self):
    wanted = self._get_param("AssociationIds") or []
    found = [a for key, a in associations(self.ec2_backend).items() if not wanted or key in wanted]
    return ActionResult({"InterfaceAssociations": found})


def disassociate_trunk_interface(self):
    backend, wanted = self.ec2_backend, self._get_param("AssociationId")
    if wanted not in associations(backend):
        raise Refused("InvalidTrunkInterfaceAssociationId.NotFound", wanted)
    gone = associations(backend).pop(wanted)
    call_hook("disassociate", backend, gone)
    if gone["BranchInterfaceId"] in backend.enis:
        backend.enis[gone["BranchInterfaceId"]].status = "available"
    return ActionResult({"Return": True})


for function in (
    call_action,
    create_network_interface,
    delete_network_interface,
    attach_network_interface,
    create_network_interface_permission,
    describe_network_interface_permissions,
    modify_network_interface_attribute,
    create_security_group,
    delete_security_group,
    associate_trunk_interface,
    describe_trunk_interface_associations,
    disassociate_trunk_interface,
):
    setattr(EC2Response, function.__name__, function)

vpcs.random_ipv6_cidr = lambda: os.environ["SGP_VPC_IPV6"]

if __name__ == "__main__":
    from moto.server import main

    os.environ.setdefault("MOTO_ACCOUNT_ID", "123456789012")
    main(sys.argv[2:])
