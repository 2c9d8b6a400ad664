#!/bin/sh
# The VPC's side of trunks and branches: the trunk's link, and which link a branch's address is behind. Run by ec2.py.
# Usage: route.sh CLUSTER associate|disassociate NODE VLAN MAC ADDRESS...
#        route.sh CLUSTER trunk NODE MAC
set -eu
cluster=$1 verb=$2 node=$3
router="nsenter --net=/run/netns/sgp-$cluster-router ip"
if [ "$verb" = trunk ]; then
    $router link del "${node}t" 2>/dev/null || true
    $router link add "${node}t" type veth peer name eth1 address "$4" netns "/run/netns/sgp-$cluster-$node"
    $router link set "${node}t" up
    exit
fi
vlan=$4 mac=$5
shift 5
for address in "$@"; do
    case $address in *:*) prefix=$address/128 ;; *) prefix=$address/32 ;; esac
    if [ "$verb" = associate ]; then
        $router route replace "$prefix" dev "${node}b$vlan"
        $router neigh replace "$address" lladdr "$mac" dev "${node}b$vlan" nud permanent
    else
        $router route del "$prefix" dev "${node}b$vlan" 2>/dev/null || true
        $router neigh del "$address" dev "${node}b$vlan" 2>/dev/null || true
    fi
done
