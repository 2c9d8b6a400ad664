"""Makes a cluster's VPC by EC2's own API: subnets, the cluster's security group, one instance a node.

Usage: vpc.py VPC SUBNET,SUBNET CLUSTER INSTANCE_TYPE NODE=ADDRESS... ; prints JSON. Environment: the AWS SDK's own.
Every CIDR and address is IPV4, or IPV4+IPV6.
"""
import json
import sys

import boto3


def families(text):
    v4, _, v6 = text.partition("+")
    return v4, v6


def make_vpc(ec2, cidr):
    v4, v6 = families(cidr)
    return ec2.create_vpc(CidrBlock=v4, AmazonProvidedIpv6CidrBlock=bool(v6))["Vpc"]["VpcId"]


def make_subnet(ec2, vpc, cidr):
    v4, v6 = families(cidr)
    more = {"Ipv6CidrBlock": v6} if v6 else {}
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=v4, **more)["Subnet"]["SubnetId"]
    if v6:
        ec2.modify_subnet_attribute(SubnetId=subnet, AssignIpv6AddressOnCreation={"Value": True})
    return subnet


def make_instance(ec2, image, kind, name, addresses, subnet, group):
    v4, v6 = families(addresses)
    made = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        InstanceType=kind,
        SubnetId=subnet,
        PrivateIpAddress=v4,
        SecurityGroupIds=[group],
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
    )["Instances"][0]
    if v6:
        ec2.assign_ipv6_addresses(NetworkInterfaceId=made["NetworkInterfaces"][0]["NetworkInterfaceId"], Ipv6Addresses=[v6])
    return {"id": made["InstanceId"], "mac": made["NetworkInterfaces"][0]["MacAddress"]}


def main(cidr, subnets, cluster, kind, *nodes):
    ec2 = boto3.client("ec2")
    vpc = make_vpc(ec2, cidr)
    subnet_ids = [make_subnet(ec2, vpc, one) for one in subnets.split(",")]
    group = ec2.create_security_group(GroupName=f"eks-cluster-sg-{cluster}", Description="cluster security group", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}])
    image = ec2.describe_images()["Images"][0]["ImageId"]
    instances = {}
    for number, node in enumerate(nodes):
        name, addresses = node.split("=")
        instances[name] = make_instance(ec2, image, kind, name, addresses, subnet_ids[number % len(subnet_ids)], group)
    print(json.dumps({"vpc": vpc, "clusterGroup": group, "instances": instances}))


main(*sys.argv[1:])
