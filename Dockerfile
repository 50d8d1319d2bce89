# One image for api, worker, projector, dispatcher, migrate and agent; docker-compose.yml picks the command.
FROM python:3.13-slim AS build
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/testhide
COPY requirements/server.txt requirements/docker.txt requirements/semantic.txt requirements/ai.txt requirements/vcenter.txt requirements/
RUN /opt/testhide/bin/pip install --require-hashes -r requirements/server.txt -r requirements/docker.txt -r requirements/semantic.txt -r requirements/ai.txt -r requirements/vcenter.txt
COPY pyproject.toml README.md ./
COPY requirements/server.in requirements/embedded.in requirements/docker.in requirements/semantic.in requirements/ai.in requirements/vcenter.in requirements/
COPY src src
# The build's own tool is pinned by the development lock.
COPY requirements/dev.txt requirements/dev.txt
RUN awk '/^[a-z]/ { keep = /^setuptools==/ } keep' requirements/dev.txt > setuptools.txt \
    && /opt/testhide/bin/pip install --require-hashes -r setuptools.txt \
    && /opt/testhide/bin/pip install --no-deps --no-build-isolation . \
    && /opt/testhide/bin/pip uninstall --yes setuptools

FROM python:3.13-slim
# git is for the agent, and ssh for Docker hosts at ssh://; everything else is Python.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git ca-certificates openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/testhide --create-home testhide
COPY --from=build /opt/testhide /opt/testhide
# What /healthz shows: docker build --build-arg TESTHIDE_BUILD=$(git rev-parse HEAD)
ARG TESTHIDE_BUILD=
ENV TESTHIDE_BUILD=$TESTHIDE_BUILD
ENV PATH=/opt/testhide/bin:$PATH PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2 TESTHIDE_DATA=/var/lib/testhide
USER testhide
WORKDIR /var/lib/testhide
VOLUME /var/lib/testhide
EXPOSE 8000
ENTRYPOINT ["testhide"]
CMD ["serve"]
