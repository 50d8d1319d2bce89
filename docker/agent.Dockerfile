# Image for Docker agents. The agent is the file that the server offers for download, next to this one; docs/docker.md
# shows how to get it:
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
# The image is read-only for the agent, so what is not compiled now is compiled at each start. Images of Python have no
# compiled modules: an agent would take some 0.3 s of CPU time longer to start, and a build with Python as long again.
RUN python3 -m compileall -q -x '/(test|tests|idlelib|lib2to3|site-packages)/' \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')" || true
COPY testhide-agent.pyz /usr/local/lib/testhide-agent.pyz
USER 10001:10001
# -I: neither the environment nor the working folder adds modules to the agent.
ENTRYPOINT ["python3", "-I", "/usr/local/lib/testhide-agent.pyz"]
