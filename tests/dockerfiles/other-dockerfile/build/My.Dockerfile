# Covers -f of a file in a folder, its own .dockerignore, and a context that is a folder.
FROM busybox
COPY . /all/
