# SPDX-License-Identifier: Apache-2.0
#
# One image with all programs, and nothing else: no shell, no package manager. ./dev image builds
# it (docs/kubernetes.md); so does any builder that takes a Dockerfile.

# `build` compiles the programs; `given` takes those that lie in build/image/programs already.
ARG PROGRAMS=build

FROM debian:bookworm-slim AS packages
COPY dev /src/dev
# One list of packages for everybody: ./dev knows it.
RUN /src/dev packages build image && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /src

FROM packages AS build
COPY . /src
RUN ./dev programs

FROM packages AS given
COPY . /src
RUN mkdir -p build/release && mv build/image/programs build/release/bin

FROM ${PROGRAMS} AS assembled
RUN python3 image/assemble.py --programs build/release/bin --root /image

FROM scratch
COPY --from=assembled /image/ /
ENV PATH=/usr/bin
USER 65532:65532
EXPOSE 7000 8080 9090
CMD ["allezon-gateway", "--help"]
ARG VERSION
ARG REVISION
ARG CREATED
ARG SOURCE
LABEL org.opencontainers.image.title="allezon" \
      org.opencontainers.image.description="Takes in user tags, answers profiles and aggregates" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"
