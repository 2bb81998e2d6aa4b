#!/usr/bin/env bash
# Builds the platform's image with the engine that is there: docker, podman or buildah (ENGINE= chooses).
#   images.sh [platform] [spark] [debian]
# platform  interest-clock:latest; the default
# spark     interest-clock:spark, with Spark and Java
# debian    first the images that our files name (python, postgres, redis, nginx, ...), made of Debian's packages where none
#           of that name is there: for a machine that reaches no image registry. Needs root and debootstrap.
# How pip, uv and apt reach their packages on this machine (pip.conf, uv.toml, certificates, apt's source, folders of wheels)
# is passed on for the build and does not stay in the image.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "images: $1" >&2; exit 1; }

choose_engine() {
  local candidate
  for candidate in ${ENGINE:-docker podman buildah}; do
    command -v "$candidate" >/dev/null || continue
    if [ "$candidate" = buildah ] || "$candidate" info >/dev/null 2>&1; then echo "$candidate"; return; fi
  done
  fail "no container engine answers; 'make containers' installs podman (Debian, as root)"
}

engine=$(choose_engine)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

stand_in=interest-clock.stand-in  # label of the images made here: a digest of what they are made from
digest=$(cat docker/debian/* | sha256sum | cut -c1-16)

is_current() {  # whether an image is there: an official one, or one that was made here from the same files
  local format="{{index .Config.Labels \"$stand_in\"}}" label
  case $engine in
    buildah) format="{{index .Docker.Config.Labels \"$stand_in\"}}"; label=$(buildah inspect --type image --format "$format" "$1" 2>/dev/null) ;;
    *) label=$("$engine" image inspect --format "$format" "$1" 2>/dev/null) ;;
  esac || return 1
  [ -z "$label" ] || [ "$label" = "<no value>" ] || [ "$label" = "$digest" ]
}

options=()
secret() { if [ -r "$2" ]; then options+=(--secret "id=$1,src=$2"); fi; }
folder() { if [ "$engine" != docker ] && [ -d "$1" ]; then options+=(--volume "$1:$1:ro"); fi; }

collect_options() {
  secret pip /etc/pip.conf
  secret uv /etc/uv/uv.toml
  secret certificates "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
  if [ -n "${SSL_CERT_FILE:-}" ]; then options+=(--build-arg SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt); fi
  if [ -n "${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}" ]; then
    options+=(--build-arg "UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}")
    folder "${UV_FIND_LINKS:-$PIP_FIND_LINKS}"
  fi
  local path
  for path in $({ grep -ohE 'file://[^ ]+' /etc/pip.conf || true; } 2>/dev/null | sed -E 's#^file://##; s#/simple/?$##' | sort -u); do
    folder "$path"
  done
}

build() {  # arguments of the engine's build
  echo "images: $engine builds ${*: -2:1}"
  case $engine in
    docker) DOCKER_BUILDKIT=1 docker build --network host "${options[@]}" "$@" ;;
    podman) podman build --network host --format docker "${options[@]}" "$@" ;;
    buildah) buildah build --layers --isolation chroot --format docker "${options[@]}" "$@" ;;
  esac > "$scratch/log" 2>&1 || { tail -n 40 "$scratch/log" >&2; fail "the build failed"; }
}

debian_root() {
  command -v debootstrap >/dev/null || fail "debootstrap is not installed (make containers)"
  local mirror
  mirror=$(awk '$1 == "URIs:" {print $2; exit} $1 == "deb" {print $2; exit}' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null)
  [ -n "$mirror" ] || fail "apt has no source to take Debian from"
  echo "images: debootstrap makes Debian 12's root file system"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$scratch/root" "$mirror" > "$scratch/log" 2>&1 \
    || { tail -n 20 "$scratch/log" >&2; fail "debootstrap failed"; }
  # What the official slim images leave out too.
  printf 'path-exclude /usr/share/%s/*\n' doc man locale info lintian > "$scratch/root/etc/dpkg/dpkg.cfg.d/slim"
  rm -rf "$scratch"/root/usr/share/{doc,man,locale,info,lintian} "$scratch"/root/var/cache/apt/* "$scratch"/root/var/lib/apt/lists/*
  mkdir "$scratch/context"
  tar --directory "$scratch/root" --create --file "$scratch/context/root.tar" .
  cp docker/debian/*.sh docker/debian/weed.py requirements-dev.txt "$scratch/context"
}

debian() {
  local name target missing=()
  local -A targets=()
  while read -r target name; do
    targets[$name]=$target
    is_current "$name" || missing+=("$name")
  done < <(debian_names)
  [ ${#missing[@]} -gt 0 ] || return 0
  debian_root
  for name in "${missing[@]}"; do
    build --label "$stand_in=$digest" --target "${targets[$name]}" --file docker/debian/Dockerfile --tag "$name" "$scratch/context"
  done
}

debian_names() {  # target of docker/debian/Dockerfile, and the name that our files use for what it stands for
  echo "python python:$(sed -n 's/^ARG PYTHON=//p' docker/Dockerfile)"
  awk '$1 == "image:" {print $2}' docker/compose.yaml | while read -r name; do
    case $name in
      postgres:*) echo "postgres $name" ;;
      redis:*) echo "redis $name" ;;
      *nginx-unprivileged:*) echo "nginx $name" ;;
      *seaweedfs:*) echo "objects $name" ;;
    esac
  done
}

platform() { build --file docker/Dockerfile --tag interest-clock:latest .; }
spark() { build --build-arg SPARK=1 --file docker/Dockerfile --tag interest-clock:spark .; }

collect_options
what=("${@:-platform}")
case " ${what[*]} " in *" debian "*) debian ;; esac
for each in "${what[@]}"; do
  case $each in
    debian) ;;
    platform | spark) "$each" ;;
    *) fail "there is no '$each': choose from platform, spark, debian" ;;
  esac
done
case $engine in
  docker) docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' ;;
  podman) podman image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' ;;
  buildah) buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' ;;
esac | grep -E '(^|/)interest-clock:' | sed 's/^/images: /'
