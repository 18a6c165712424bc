# Images and what containers run with; included by the Makefile.
DOCKER ?= docker
VERSION ?= $(or $(shell git describe --always --dirty --tags 2>/dev/null),dev)
# The tag that docker-compose.multiregion.yml runs.
MERIDIAN_VERSION ?= local
# prebuilt: Go builds here and images copy; source: the images' own stage builds (from $GO_IMAGE).
BINARIES ?= prebuilt
IMAGES = meridian meridian-encoder meridian-viewer meridian-minio meridian-nats-server meridian-postgres meridian-prometheus
SECRETS ?= deploy/compose/secrets
# Image builds use the machine's own network and Go's module proxy as set here.
docker-build = DOCKER_BUILDKIT=1 $(DOCKER) build --quiet --network host --build-arg BINARIES=$(BINARIES) --build-arg VERSION=$(VERSION) \
	--build-arg GOPROXY --build-arg GOSUMDB $(if $(GO_IMAGE),--build-arg GO_IMAGE=$(GO_IMAGE)) -t $(1):$(MERIDIAN_VERSION) $(2) . >/dev/null && echo 'images: $(1):$(MERIDIAN_VERSION)'

.PHONY: dist
dist: tools ## Build the static programs that go into images, the same bytes everywhere, into dist/
	@mkdir -p dist
	@CGO_ENABLED=0 GOFLAGS=-mod=readonly $(GO) build -trimpath -buildvcs=false \
		-ldflags '-s -w -buildid= -X github.com/meridian-video/meridian/internal/cli.version=$(VERSION)' -o dist/ . ./deploy/healthcheck
	@install -m 0755 $(call tool,minio,github.com/minio/minio) dist/minio
	@install -m 0755 $(call tool,nats-server,github.com/nats-io/nats-server/v2) dist/nats-server

.PHONY: images
images: $(if $(filter prebuilt,$(BINARIES)),dist) ## Build the container images (BINARIES=source: inside Docker)
	@$(call docker-build,meridian,--target service)
	@$(call docker-build,meridian-encoder,--target encoder)
	@$(call docker-build,meridian-viewer,--target viewer)
	@$(call docker-build,meridian-minio,-f deploy/images/minio.Dockerfile)
	@$(call docker-build,meridian-nats-server,-f deploy/images/nats-server.Dockerfile)
	@$(call docker-build,meridian-postgres,-f deploy/images/postgres.Dockerfile)
	@$(call docker-build,meridian-prometheus,-f deploy/images/prometheus.Dockerfile)

.PHONY: secrets
secrets: ## Make keys, certificates and store configurations for docker-compose.multiregion.yml
	@$(GO) run . provision --regions deploy/compose/regions.yaml --out $(SECRETS)

.PHONY: compose-local
compose-local: ## Run three regions in containers where no registry is reachable (root; makes the base image, starts an engine if none runs)
	@sh deploy/compose/local.sh

.PHONY: sbom
sbom: ## Write a bill of materials (CycloneDX) of every image into dist/sbom
	@$(GO) run ./deploy/sbom -docker $(DOCKER) -out dist/sbom $(addsuffix :$(MERIDIAN_VERSION),$(IMAGES))
