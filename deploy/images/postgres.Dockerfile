# PostgreSQL 15 under Patroni with pgBackRest, and etcd, from Debian: one image, two services
# (`patroni`, the default, and `etcd`). Build arguments as in the Dockerfile at the root.
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
LABEL org.opencontainers.image.title=meridian-postgres
# Patroni and etcd keep to the versions whose timings were tested. No cluster is made at installation.
ARG POSTGRES=15.*
ARG PATRONI=3.0.*
ARG ETCD=3.4.*
ARG PGBACKREST=2.*
RUN apt-get update -qq && \
	install -d /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf && \
	apt-get install -qq -y --no-install-recommends "postgresql-15=${POSTGRES}" "patroni=${PATRONI}" "etcd-server=${ETCD}" "etcd-client=${ETCD}" \
		"pgbackrest=${PGBACKREST}" ca-certificates >/dev/null && \
	rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* && \
	install -d -o postgres -g postgres -m 0750 /var/lib/meridian /var/lib/meridian/postgres /var/lib/meridian/etcd
COPY --from=binaries /out/healthcheck /usr/local/bin/
COPY --chmod=0755 deploy/images/postgres/ internal/platform/patroni/run_patroni.py /usr/local/lib/meridian/
USER postgres
WORKDIR /var/lib/meridian
ENV LC_ALL=C.UTF-8 HOME=/var/lib/meridian/postgres PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
STOPSIGNAL SIGTERM
# The member runs, as leader or as follower.
HEALTHCHECK --interval=1s --timeout=90s --start-period=180s --retries=1 CMD ["healthcheck", "-stay", "1m", "-ca", "/run/meridian/ca.crt", "https://localhost:8008/readiness"]
ENTRYPOINT ["/usr/local/lib/meridian/start"]
CMD ["patroni"]
