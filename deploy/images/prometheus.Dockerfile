# Prometheus from Debian, with the platform's rules.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
LABEL org.opencontainers.image.title=meridian-prometheus
ARG PROMETHEUS=2.42.*
RUN apt-get update -qq && \
	apt-get install -qq -y --no-install-recommends "prometheus=${PROMETHEUS}" >/dev/null && \
	rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* && \
	install -d -o prometheus -g prometheus -m 0750 /var/lib/meridian
USER prometheus
ENTRYPOINT ["prometheus", "--config.file=/etc/meridian/prometheus.yml", "--storage.tsdb.path=/var/lib/meridian", "--storage.tsdb.retention.time=7d"]
