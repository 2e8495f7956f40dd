#!/bin/sh
# Puts disks back from archives: sh restore.sh IDENTITY FULL [DIFFERENTIAL] NODE=DEVICE...
# FULL and DIFFERENTIAL are folders as the site has them; take this file and layout/ from the newer one (README.txt).
# Needs sh, coreutils, tar, zstd, age, sfdisk.
set -eu
die() { echo "restore.sh: $*" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1-}" = --put ]; then # started by tar for each member, its bytes on stdin
    case $TAR_FILENAME in data/* | zero/*) ;; *) cat >/dev/null; exit 0 ;; esac
    rest=${TAR_FILENAME#*/}; volume=${rest%%/*}; at=${rest#*/}
    while read -r name node base _; do [ "$name" != "$volume" ] || break; done <"$here/layout/volumes"
    if [ "$name" != "$volume" ] || [ ! -e "$WORK/$node" ]; then cat >/dev/null; exit 0; fi
    put() { dd of="$WORK/$node" bs=1M iflag=fullblock oflag=seek_bytes seek=$((base + ${at%-*})) conv=notrunc status=none; }
    case $TAR_FILENAME in data/*) put ;; *) head -c "${at#*-}" /dev/zero | put ;; esac
    exit
fi
busy() { # mounted, swap, or something is built on the device or on a partition of it
    name=$(basename "$(readlink -f "$1")")
    for each in "/sys/class/block/$name" "/sys/class/block/$name/$name"*; do
        [ -e "$each/dev" ] || continue
        for held in "$each"/holders/*; do [ ! -e "$held" ] || return 0; done
        while read -r _ _ number _; do [ "$number" != "$(cat "$each/dev")" ] || return 0; done </proc/self/mountinfo
        while read -r used _; do [ "$(readlink -f "$used")" != "/dev/${each##*/}" ] || return 0; done <<END
$(cat /proc/mounts /proc/swaps)
END
    done
    return 1
}
[ $# -ge 3 ] || die "usage: sh restore.sh IDENTITY FULL [DIFFERENTIAL] NODE=DEVICE..."
key=$1 full=$2; shift 2
newer=; case $1 in *=*) ;; *) newer=$1; shift ;; esac
if [ -e "$here/layout/base" ]; then # what lies beside this file is of a differential
    [ -n "$newer" ] || die "this is the restore.sh of a differential: name the full and the differential"
    [ "$(sha256sum <"$full/SHA256SUMS")" = "$(cat "$here/layout/base")" ] || die "$full is not the full that the differential needs"
else
    [ -z "$newer" ] || die "take restore.sh and layout/ from the differential, not from the full"
fi
for each in "$full" ${newer:+"$newer"}; do (cd "$each" && sha256sum --check --strict --quiet SHA256SUMS) || die "$each is damaged"
    [ "$(age -d -i "$key" <"$each/part-000000" 2>/dev/null | head -c 1 | wc -c)" -eq 1 ] || die "$key does not open $each"
done
WORK=$(mktemp -d) SELF=$here/$(basename "$0"); export WORK SELF; trap 'rm -rf "$WORK"' EXIT
for pair in "$@"; do
    node=${pair%%=*} device=${pair#*=}
    while read -r name size sector _; do [ "$name" != "$node" ] || break; done <"$here/layout/nodes"
    [ "$name" = "$node" ] || die "there is no $node; see layout/nodes"
    if [ -b "$device" ]; then
        sys=/sys/class/block/$(basename "$(readlink -f "$device")")
        have=$(($(cat "$sys/size") * 512))
        ! busy "$device" || die "$device is in use"
        [ ! -e "$sys/queue" ] || [ ! -e "$here/layout/$node.sfdisk" ] || [ "$(cat "$sys/queue/logical_block_size")" = "$sector" ] || die "$device has other sectors than of $sector bytes"
    elif [ -f "$device" ]; then
        have=$(stat -c %s "$device")
    else die "$device is no block device and no file"; fi
    [ "$have" -ge "$size" ] || die "$device is too small: $have bytes, $size are needed"
    ln -s "$(readlink -f "$device")" "$WORK/$node"
    echo "$node goes onto $device ($have bytes), and all that is on it is lost. Type $device to go on:"
    read -r answer || answer=
    [ "$answer" = "$device" ] || die "not confirmed; nothing was written"
done
tables() { for link in "$WORK"/*; do table=$here/layout/${link##*/}.sfdisk
    [ ! -e "$table" ] || sfdisk --quiet --wipe never --wipe-partitions never "$(readlink "$link")" <"$table" || die "sfdisk failed"; done; }
tables # refuses a disk that is in use, too
for each in "$full" ${newer:+"$newer"}; do
    # shellcheck disable=SC2016 # tar's child expands it
    { { cat "$each"/part-* | age -d -i "$key" || : >"$WORK/.failed"; } | { zstd -dcq || : >"$WORK/.failed"; }; } |
        tar -x --to-command='exec sh "$SELF" --put' || die "$each: not all of it could be written"
    [ ! -e "$WORK/.failed" ] || die "$each could not be opened"
done
tables # the old table came back with the first blocks of the disk
sync
echo "done; README.txt says what is left to do"
