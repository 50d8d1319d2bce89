# Image for Docker agents (docs/docker.md). The agent is the file that the server offers for download, next to this one:
#
#   docker build -t testhide/agent:3.13 -f docker/agent.Dockerfile docker
#
# BASE may be any image with Python 3.9 or newer and a shell. Builds with a repository also need git; the line with apt-get
# is for bases of Debian and Ubuntu.
ARG BASE=python:3.13-slim
FROM $BASE
USER root
RUN command -v git >/dev/null || { apt-get update \
    && apt-get install --yes --no-install-recommends git ca-certificates openssh-client \
    && rm -rf /var/lib/apt/lists/*; }
# The server starts all containers with this user and group, whatever the image says.
RUN grep -q '^testhide:' /etc/passwd || { echo 'testhide:x:10001:10001::/testhide:/bin/sh' >> /etc/passwd \
    && echo 'testhide:x:10001:' >> /etc/group; }
COPY testhide-agent.pyz /usr/local/lib/testhide-agent.pyz
USER 10001:10001
# -I: neither the environment nor the working folder adds modules to the agent.
ENTRYPOINT ["python3", "-I", "/usr/local/lib/testhide-agent.pyz"]
