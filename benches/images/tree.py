"""Files to build from: the same bytes for the same arguments, sizes log-normal, most of them text."""

import os
import random

# Modification time of every file made here: a builder must not take them for just written.
MADE = 1577836800


def write(folder, files, total, seed, per_folder=50):
    """`files` files of `total` bytes in two levels of folders; gives their paths in the order they were made."""
    rng = random.Random(seed)
    pools = [text(rng), rng.randbytes(4 << 20)]
    weights = [rng.lognormvariate(0, 1.3) for _ in range(files)]
    scale = total / sum(weights)
    side = max(1, round((files / per_folder) ** 0.5))
    paths = []
    for number, weight in enumerate(weights):
        leaf = number % (side * side)
        parent = f"{folder}/d{leaf % side:03d}/e{leaf // side:03d}"
        if number < side * side:
            os.makedirs(parent, exist_ok=True)
        path = f"{parent}/f{number:06d}.c"
        with open(path, "wb") as file:
            file.write(content(rng, pools[rng.random() < 0.3], f"// {seed} {number}\n".encode(), max(16, int(weight * scale))))
        os.utime(path, (MADE, MADE))
        paths.append(path)
    return paths


def content(rng, pool, head, size):
    parts, left = [head], size - len(head)
    while left > 0:
        start = rng.randrange(len(pool))
        part = pool[start:start + left]
        parts.append(part)
        left -= len(part)
    return b"".join(parts)[:size]


def text(rng):
    """4 MiB of words, the frequent ones short, so that it compresses about three times."""
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 10))) for _ in range(4096)]
    chosen = (words[min(4095, int(rng.paretovariate(0.7)))] for _ in range(1 << 20))
    return " ".join(chosen).encode()[:4 << 20]


def append(path, line):
    with open(path, "a") as file:
        file.write(line)


DOCKERFILE = """FROM benchbase AS deps
WORKDIR /w
COPY deps/ /w/deps/
RUN mkdir -p /out && find deps -type f | sort | xargs sha256sum > /out/lock
RUN cp -r deps /out/vendor

FROM benchbase AS compile
WORKDIR /src
COPY src/ /src/
RUN find . -name '*.c' | sort | xargs sha256sum > /src/objects
RUN mkdir -p /out/bin && find . -name '*.c' | sort | xargs cat > /out/bin/app

FROM benchbase AS final
ENV APP_HOME=/app
WORKDIR /app
COPY --from=deps /out /app/
COPY --from=compile /out/bin /app/bin/
COPY assets/ /app/assets/
RUN sha256sum /app/bin/app > /app/manifest
LABEL version=1
CMD ["/app/bin/app"]
"""


def application(folder, seed, files=5000, total=100_000_000):
    """The context of W1: three stages, two of them side by side; the steps do little but read and write files."""
    for part, (name, share) in enumerate((("src", 0.70), ("assets", 0.25), ("deps", 0.05))):
        write(f"{folder}/{name}", int(files * share), int(total * share), seed * 10 + part)
    with open(f"{folder}/Dockerfile", "w") as file:
        file.write(DOCKERFILE)
