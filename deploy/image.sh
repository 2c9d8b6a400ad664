#!/bin/sh
# image.sh AGENT ROOT: lays out the file system of the image in ROOT. Names no processor: what is linked is where the agent says.
set -eu
agent=$1
root=$2

mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/tmp"
cp "$agent" "$root/usr/local/bin/sgp-agent"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
# Paths as the loader finds them, the loader's own among them.
ldd "$agent" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
# Names are asked of the hosts file and of DNS, which glibc brings itself.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
