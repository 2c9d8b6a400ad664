"""Makes a cluster's VPC by EC2's own API: subnets, the cluster's security group, one instance a node.

Usage: vpc.py VPC_CIDR SUBNET_CIDR,SUBNET_CIDR CLUSTER NODE=ADDRESS... ; prints JSON. Environment: the AWS SDK's own.
"""
import json
import sys

import boto3


def main(cidr, subnets, cluster, *nodes):
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    subnet_ids = [ec2.create_subnet(VpcId=vpc, CidrBlock=one)["Subnet"]["SubnetId"] for one in subnets.split(",")]
    group = ec2.create_security_group(GroupName=f"eks-cluster-sg-{cluster}", Description="cluster security group", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}])
    image = ec2.describe_images()["Images"][0]["ImageId"]
    instances = {}
    for number, node in enumerate(nodes):
        name, address = node.split("=")
        made = ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="m5.xlarge",
            SubnetId=subnet_ids[number % len(subnet_ids)],
            PrivateIpAddress=address,
            SecurityGroupIds=[group],
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
        )
        instances[name] = made["Instances"][0]["InstanceId"]
    print(json.dumps({"vpc": vpc, "clusterGroup": group, "instances": instances}))


main(*sys.argv[1:])
