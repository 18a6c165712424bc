# Prometheus from Debian. Its configuration is mounted. Build arguments as in the
# Dockerfile at the root.
ARG BASE=debian:bookworm-slim
ARG GO_IMAGE=golang:1.26-bookworm
ARG BINARIES=source

FROM ${GO_IMAGE} AS binaries-source
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly
WORKDIR /src
COPY go.mod go.sum ./
COPY deploy/healthcheck/ deploy/healthcheck/
COPY internal/natshealth/ internal/natshealth/
COPY internal/ask/ internal/ask/
RUN go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o /out/healthcheck ./deploy/healthcheck

FROM ${BASE} AS binaries-prebuilt
COPY dist/healthcheck /out/

FROM binaries-${BINARIES} AS binaries

FROM ${BASE}
LABEL org.opencontainers.image.title=meridian-prometheus
ARG PROMETHEUS=2.42.*
RUN apt-get update -qq && \
	apt-get install -qq -y --no-install-recommends "prometheus=${PROMETHEUS}" >/dev/null && \
	rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* && \
	install -d -o prometheus -g prometheus -m 0750 /var/lib/meridian
COPY --from=binaries /out/healthcheck /usr/local/bin/
USER prometheus
ENTRYPOINT ["prometheus", "--config.file=/etc/meridian/prometheus.yml", "--storage.tsdb.path=/var/lib/meridian", "--storage.tsdb.retention.time=7d"]
