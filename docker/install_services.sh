#!/usr/bin/env bash
# Installs the servers that some tests start, from Debian's packages: PostgreSQL, Redis, Chromium, Java for Spark,
# nginx, Prometheus, faketime. With the argument 'containers' also podman, and what builds images where no registry is reached.
# Needs root; what is installed already is left as it is.
set -euo pipefail

wanted=()
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || wanted+=(postgresql)
command -v redis-server >/dev/null || wanted+=(redis-server)
command -v chromium >/dev/null || wanted+=(chromium)
command -v java >/dev/null || wanted+=(openjdk-17-jre-headless)
command -v nginx >/dev/null || wanted+=(nginx-light)
command -v prometheus >/dev/null || wanted+=(prometheus)
command -v prometheus-alertmanager >/dev/null || wanted+=(prometheus-alertmanager)
command -v faketime >/dev/null || wanted+=(faketime)
if [ "${1:-}" = containers ] && ! docker info >/dev/null 2>&1; then
  command -v podman >/dev/null || wanted+=(podman runc netavark aardvark-dns)
  # crun, Debian's choice, refuses machines that have both versions of cgroups; limits are not raised, which a container may not.
  if [ "$(id -u)" -eq 0 ] && [ ! -e /etc/containers/containers.conf ]; then
    mkdir -p /etc/containers
    cat > /etc/containers/containers.conf <<'EOF'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
[network]
network_backend = "netavark"
EOF
  fi
fi
if [ "${1:-}" = containers ] && ! command -v debootstrap >/dev/null; then wanted+=(debootstrap); fi
if [ ${#wanted[@]} -eq 0 ]; then
  echo "services: all are installed"
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "services: ${wanted[*]} are missing, and installing them needs root: sudo make services" >&2
  exit 1
fi
echo "services: installing ${wanted[*]}"
export DEBIAN_FRONTEND=noninteractive
# A package's start script must not start a server here: the tests start their own, on loopback.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
echo "services: done"
