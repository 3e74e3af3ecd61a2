"""Counts the words of each text this datum shows."""

import os
import re
from collections import Counter

SOURCE, TARGET = "/pfs/texts", "/pfs/out"


def words(text):
    """Letters and apostrophes, in lower case."""
    return re.findall(r"[a-z']+", text.lower())


def main():
    for name in sorted(os.listdir(SOURCE)):
        with open(os.path.join(SOURCE, name), encoding="utf-8") as file:
            counts = Counter(words(file.read()))
        # One line for each word, so that any program can add them up.
        with open(os.path.join(TARGET, name), "w", encoding="utf-8") as file:
            for word, count in sorted(counts.items()):
                file.write(f"{count} {word}\n")
        print(f"{name}: {sum(counts.values())} words, {len(counts)} different")


if __name__ == "__main__":
    main()
