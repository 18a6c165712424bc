# nats-server from the pinned sources of tools/nats-server, on debian:bookworm-slim
# alone. Build arguments as in the Dockerfile at the root.
ARG BASE=debian:bookworm-slim
ARG GO_IMAGE=golang:1.26-bookworm
ARG BINARIES=source

FROM ${GO_IMAGE} AS binaries-source
ARG GOPROXY
ARG GOSUMDB
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
	go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o /out/healthcheck ./deploy/healthcheck && \
	cd tools/nats-server && go build -trimpath -buildvcs=false -ldflags "-s -w" -o /out/nats-server github.com/nats-io/nats-server/v2

FROM ${BASE} AS binaries-prebuilt
COPY dist/nats-server dist/healthcheck /out/

FROM binaries-${BINARIES} AS binaries

FROM ${BASE}
LABEL org.opencontainers.image.title=meridian-nats-server org.opencontainers.image.licenses=Apache-2.0
RUN groupadd --gid 10003 nats && useradd --uid 10003 --gid nats --no-create-home --home-dir /var/lib/meridian --shell /usr/sbin/nologin nats && \
	install -d -o nats -g nats -m 0750 /var/lib/meridian /var/lib/meridian/nats
COPY --from=binaries /out/nats-server /out/healthcheck /usr/local/bin/
USER nats
# Healthy means: JetStream is on, and in a cluster it has a leader and is current. A
# server that has lost its streams is ended, so that it is restarted.
HEALTHCHECK --interval=1s --timeout=90s --start-period=180s --retries=1 CMD ["healthcheck", "-stay", "1m", "-nats", "http://127.0.0.1:8222"]
ENTRYPOINT ["nats-server", "--config", "/run/meridian/nats.conf"]
