#!/bin/sh
# The redis walkthrough in a shell: a manifest by its tag, the same by its digest, all its layers, and the manifest that
# these lines fetched in January 2017. Needs distsdk and python3 on PATH. Played from cassettes, without network; with
# an empty DISTSDK_REPLAY it asks docker.io, as tests/live has it.
set -eu
cd "$(dirname "$0")/.."
export DISTSDK_REPLAY="${DISTSDK_REPLAY-cassettes/as-in-2017}"

command -v jq >/dev/null || {
    echo "(jq is not installed: a line of Python stands in for it.)"
    jq() { python3 -c 'import json, sys; [print(layer["digest"]) for layer in json.load(sys.stdin)["layers"]]'; }
}
command -v shasum >/dev/null || shasum() { sha256sum; }
command -v sha256sum >/dev/null || sha256sum() { shasum -a256; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT

fail() {
    echo "walkthrough: $1" >&2
    exit 1
}

show() { printf '\n%s\n\n  $ %s\n' "$1" "$2"; }

bytes() { wc -c <"$1" | tr -d ' '; }

if [ -n "$DISTSDK_REPLAY" ]; then
    echo "Played from $DISTSDK_REPLAY: what a stand-in for Docker Hub said, see cassettes/README.md."
fi

first='distsdk fetch docker.io/library/redis latest mediatype:application/vnd.docker.distribution.manifest.v2+json'
show "1. Fetch a manifest by its tag. The hint says what kind is expected." "$first"
eval "$first" >"$scratch/by-tag"
printf '  %s...\n  %s bytes\n' "$(cut -c1-98 <"$scratch/by-tag" | head -n1)" "$(bytes "$scratch/by-tag")"

second="distsdk fetch docker.io/library/redis sha256:\$($first | shasum -a256 | cut -d' ' -f1)"
show "2. Hash what came, and fetch it by that digest. No hint is needed: the bytes are known." "$second"
eval "$second" >"$scratch/by-digest"
cmp -s "$scratch/by-tag" "$scratch/by-digest" || fail "the manifest by digest is not the one by tag"
DIGEST_OF_THE_SECOND=sha256:$(sha256sum <"$scratch/by-digest" | cut -d' ' -f1)
printf '  %s\n  the same %s bytes\n' "$DIGEST_OF_THE_SECOND" "$(bytes "$scratch/by-digest")"

third='distsdk fetch docker.io/library/redis $DIGEST_OF_THE_SECOND | jq -r '\''.layers[] | .digest'\'' |
      xargs -n1 -P10 distsdk fetch docker.io/library/redis > /dev/null'
show "3. Fetch every layer that it names, ten at once. Each is held against its digest." "$third"
eval "$third" || fail "a layer could not be fetched"
python3 -c 'import json, sys
for layer in json.load(sys.stdin)["layers"]:
    print(layer["digest"], layer["size"])' <"$scratch/by-digest" >"$scratch/layers"
[ -s "$scratch/layers" ] || fail "the manifest names no layers"
total=0
while read -r digest size; do
    distsdk fetch docker.io/library/redis "$digest" >"$scratch/layer" || fail "$digest cannot be fetched"
    [ "$digest $size" = "sha256:$(sha256sum <"$scratch/layer" | cut -d' ' -f1) $(bytes "$scratch/layer")" ] ||
        fail "$digest is not what its manifest says"
    printf '  %s  %8s bytes  verified\n' "$digest" "$size"
    total=$((total + size))
done <"$scratch/layers"
printf '  %s layers, %s bytes; sha256sum agrees\n' "$(wc -l <"$scratch/layers" | tr -d ' ')" "$total"

genuine=sha256:a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73
fourth="distsdk fetch docker.io/library/redis $genuine | sha256sum"
show "In January 2017 that digest was another: this is the manifest of redis 3.2.6, byte for byte." "$fourth"
hash=$(eval "$fourth")
printf '  %s\n' "$hash"
[ "${hash%% *}" = "${genuine#sha256:}" ] || fail "these are not the bytes of 2017"
