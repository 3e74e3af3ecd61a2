import os
import sys

# What to fill with: the first argument, or a zero.
FILL = sys.argv[1] if len(sys.argv) > 1 else "0"

for name in os.listdir("/pfs/numbers"):
    with open(os.path.join("/pfs/numbers", name)) as file:
        number = file.read().strip()
    with open(os.path.join("/pfs/out", name), "w") as file:
        file.write(number.rjust(4, FILL))
