#!/usr/bin/env bash
# podman for podman-compose (--podman-path) where it is older than 4.6: without --requires, at which it does not start a container
# whose dependencies have dependencies themselves. podman-compose waits for them in any case.
arguments=()
for argument; do
  case $argument in --requires=*) ;; *) arguments+=("$argument") ;; esac
done
exec podman "${arguments[@]}"
