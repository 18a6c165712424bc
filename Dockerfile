# Meridian's own images, from debian:bookworm-slim alone:
#
#   make images                                  binaries built here by Go, then copied
#   docker build --build-arg BINARIES=source --target service .   built in the image's own stage
#
# Both ways give the same bytes: static, -trimpath, the same pinned modules.
ARG BASE=debian:bookworm-slim
ARG GO_IMAGE=golang:1.26-bookworm
ARG BINARIES=source

FROM ${GO_IMAGE} AS binaries-source
ARG GOPROXY
ARG GOSUMDB
ARG VERSION=dev
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
	go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X github.com/meridian-video/meridian/internal/cli.version=${VERSION}" -o /out/ . ./deploy/healthcheck

# `make images` has put the programs into dist/.
FROM ${BASE} AS binaries-prebuilt
COPY dist/meridian dist/healthcheck /out/

FROM binaries-${BINARIES} AS binaries

FROM ${BASE} AS base
RUN apt-get update -qq && \
	apt-get install -qq -y --no-install-recommends ca-certificates >/dev/null && \
	rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
RUN groupadd --gid 10001 meridian && useradd --uid 10001 --gid meridian --no-create-home --home-dir /var/lib/meridian --shell /usr/sbin/nologin meridian && \
	install -d -o meridian -g meridian -m 0750 /var/lib/meridian
COPY --from=binaries /out/healthcheck /usr/local/bin/healthcheck

# api, geodns, edge-cache, provision
FROM base AS service
ARG VERSION=dev
LABEL org.opencontainers.image.title=meridian org.opencontainers.image.version=${VERSION} org.opencontainers.image.licenses=Apache-2.0
COPY --from=binaries /out/meridian /usr/local/bin/meridian
USER meridian
WORKDIR /var/lib/meridian
# Where a component's admin listener is, its deployment says.
ENV MERIDIAN_ADMIN_LISTEN=127.0.0.1:9080
HEALTHCHECK --interval=1s --timeout=90s --start-period=180s --retries=1 CMD healthcheck -stay 1m "http://${MERIDIAN_ADMIN_LISTEN}/readyz"
ENTRYPOINT ["meridian"]

# encoder: ffmpeg from Debian, kept to the version that was tested
FROM base AS encoder
ARG VERSION=dev
ARG FFMPEG=7:5.1.*
LABEL org.opencontainers.image.title=meridian-encoder org.opencontainers.image.version=${VERSION} org.opencontainers.image.licenses=Apache-2.0
RUN apt-get update -qq && \
	apt-get install -qq -y --no-install-recommends "ffmpeg=${FFMPEG}" >/dev/null && \
	rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=binaries /out/meridian /usr/local/bin/meridian
USER meridian
WORKDIR /var/lib/meridian
ENV MERIDIAN_ADMIN_LISTEN=127.0.0.1:9083 MERIDIAN_SCRATCH_DIR=/var/lib/meridian
HEALTHCHECK --interval=1s --timeout=90s --start-period=180s --retries=1 CMD healthcheck -stay 1m "http://${MERIDIAN_ADMIN_LISTEN}/readyz"
ENTRYPOINT ["meridian", "encoder"]

# A viewer or creator in a container, for trying and testing
FROM encoder AS viewer
USER root
RUN apt-get update -qq && \
	apt-get install -qq -y --no-install-recommends curl jq bind9-dnsutils >/dev/null && \
	rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
USER meridian
HEALTHCHECK NONE
ENTRYPOINT []
CMD ["sleep", "infinity"]
