#!/bin/sh
# The VPC's side of a branch: which link its address is behind. Run by ec2.py.
# Usage: route.sh CLUSTER associate|disassociate NODE VLAN ADDRESS...
set -eu
cluster=$1 verb=$2 node=$3 vlan=$4
shift 4
router="nsenter --net=/run/netns/sgp-$cluster-router ip"
for address in "$@"; do
    case $address in *:*) prefix=$address/128 ;; *) prefix=$address/32 ;; esac
    if [ "$verb" = associate ]; then
        mac=$(nsenter --net="/run/netns/sgp-$cluster-$node" ip -j link show "vlan.eth.$vlan" | sed 's/.*"address":"\([0-9a-f:]*\)".*/\1/')
        $router route replace "$prefix" dev "${node}b$vlan"
        $router neigh replace "$address" lladdr "$mac" dev "${node}b$vlan" nud permanent
    else
        $router route del "$prefix" dev "${node}b$vlan" 2>/dev/null || true
        $router neigh del "$address" dev "${node}b$vlan" 2>/dev/null || true
    fi
done
