# MinIO from the pinned sources of tools/minio, on debian:bookworm-slim alone.
# Build arguments as in the Dockerfile at the root.
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
	cd tools/minio && go build -trimpath -buildvcs=false -ldflags "-s -w" -o /out/minio github.com/minio/minio

FROM ${BASE} AS binaries-prebuilt
COPY dist/minio dist/healthcheck /out/

FROM binaries-${BINARIES} AS binaries

FROM ${BASE}
LABEL org.opencontainers.image.title=meridian-minio org.opencontainers.image.licenses=AGPL-3.0-only
RUN groupadd --gid 10002 minio && useradd --uid 10002 --gid minio --no-create-home --home-dir /var/lib/meridian --shell /usr/sbin/nologin minio && \
	install -d -o minio -g minio -m 0750 /var/lib/meridian /var/lib/meridian/minio
COPY --from=binaries /out/minio /out/healthcheck /usr/local/bin/
USER minio
# It counts usage and looks for lifecycle rules; we have none.
ENV MINIO_BROWSER=off MINIO_UPDATE=off MINIO_CALLHOME_ENABLE=off MINIO_SCANNER_SPEED=slowest \
	MINIO_ROOT_USER=meridian MINIO_ROOT_PASSWORD_FILE=/run/meridian/s3.secret
# An anonymous listing is refused once users can be looked up; the health pages say "ready" earlier.
HEALTHCHECK --interval=1s --timeout=90s --start-period=180s --retries=1 CMD ["healthcheck", "-stay", "1m", "-ca", "/run/meridian/ca.crt", "-status", "403", "https://localhost:9000/"]
ENTRYPOINT ["minio", "server", "--quiet", "--certs-dir", "/run/meridian", "--address", ":9000", "/var/lib/meridian/minio"]
