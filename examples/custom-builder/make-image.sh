#!/bin/sh
# Makes the builder's image as a directory, without Docker: one static program with links to it, and the two scripts.
# The working directory of a `dir:` image is `/`, so that is where the scripts lie.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
image=${1:-$here/image}
busybox=$(command -v busybox) || {
    echo "make-image.sh: busybox is missing; install it: apt-get install busybox-static" >&2
    exit 1
}
rm -rf "$image"
mkdir -p "$image/bin" "$image/etc"
cp "$busybox" "$image/bin/busybox"
for name in awk basename cp dirname ls sed sh; do
    ln -s busybox "$image/bin/$name"
done
echo 'root:x:0:0:root:/:/bin/sh' > "$image/etc/passwd"
echo 'root:x:0:' > "$image/etc/group"
cp "$here/builder/build.sh" "$here/builder/run.sh" "$image/"
echo "$image"
