# prestop: everything that is built, tested and measured. `make demo` and `make test` need nothing set up before.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT      ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
# nethttpomithttp2: the kubelet, Eureka and Nacos speak HTTP/1.1 to us, and the tag saves half a megabyte in every Pod.
BUILD       := CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags nethttpomithttp2 -ldflags "-s -w -buildid= -X main.version=$(VERSION) -X main.commit=$(COMMIT)"
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4

ACTIONLINT  := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
# What deploy/ is to be named by: prestop's image, VERSION as its tag, and the address of the repository; there they are placeholders.
IMAGE       ?=
SOURCE      ?=
# Where the charts are, as oci://registry/path.
CHARTS      ?=
# Before what needs root.
SUDO        ?=

.PHONY: build cross demo test test-all race mutate traps e2e e2e-all kyverno trust rollout rollout-docs soak fuzz bench docs charts lint vulncheck image images manifests release reproducible push-charts sign verify github-release clean

build: ## the binary, ./prestop
	$(BUILD) -o "$${OUT:-prestop}" .

cross: ## it builds for every platform that it runs on, and for those of its developers
	for p in linux/amd64 linux/arm64 darwin/arm64 windows/amd64; do \
	  echo "build $$p"; GOOS=$${p%/*} GOARCH=$${p#*/} $(BUILD) -o /dev/null .; \
	  GOOS=$${p%/*} GOARCH=$${p#*/} go vet . ./internal/... ./drain/... ./registry/...; done

demo: ## a rolling restart on this machine, with and without prestop; no cluster, no Java
	go run ./demo

test: cross ## every test, also against real Eureka and Nacos servers; installs what they need
	$(SUDO) test/all.sh

test-all: ## and the older versions of the registries
	test/all.sh -tags all

race: ## the product's tests under the race detector, few at a time; needs a C compiler
	CGO_ENABLED=1 $(SUDO) go test -race -count=1 -p 1 -parallel 8 -timeout 40m ./internal/... ./drain/... ./registry/...

mutate: ## how much of the code its tests hold: MUTANTS of each package of PACKAGES, drawn by SEED, JOBS at a time
	cd test && go run ./mutate -C .. -n $${MUTANTS:-40} -seed $${SEED:-1} -parallel $${JOBS:-1} -least $${LEAST:-0} $${PACKAGES:-./internal/... ./drain/... ./registry/...}

traps: ## every trap against every version of the registries, and the tables of test/README.md from that
	{ s=0; go test -v -count 1 ./registry/... || s=1; (cd test && go test -v -count 1 -tags all -timeout 60m .) || s=1; exit $$s; } | \
	  tee /dev/stderr | (cd test && go run ./traps README.md)

e2e: ## on Kubernetes: the cluster that KUBECONFIG names, else, as root, one on this machine, by the script KUBE_UP; and under Docker
	test/e2e.sh

e2e-all: ## that on one cluster after the other, each on this machine, of the versions KUBE_VERSIONS
	for v in $${KUBE_VERSIONS:-1.34.4 1.36.3}; do echo "Kubernetes $$v"; KUBE_VERSION=$$v test/e2e.sh -fresh; done

kyverno: ## the policies for clusters before 1.34, by Kyverno's command line, which takes minutes to build the first time
	cd test && go test ./kyverno -count=1 -v -timeout 60m

trust: ## signs an image, the charts and the checksums of a release, and verifies them; cosign takes minutes to build the first time
	cd test && go test ./trust -count=1 -v -timeout 60m

rollout: ## what callers see of a rolling update, stopped in every way, on Kubernetes; its tables and pictures in docs/ (half an hour)
	rm -f test/rollout/results/*.json && cd test && go run ./rollout -out rollout/results
	$(MAKE) rollout-docs

rollout-docs: ## the tables and pictures of the rolling update, from test/rollout/results
	cd test && for l in en:svg zh:zh-CN.svg; do \
	  go run ./rollout -out rollout/results -lang $${l%:*} -svg ../docs/rollout.$${l#*:} >/dev/null; \
	  go run ./rollout -out rollout/results -lang $${l%:*} -hero -svg ../docs/hero.$${l#*:} >/dev/null; done
	cd test && go test ./rollout -count=1 -run '^TestTheDocumentationShowsTheRecordedRuns$$' -update-docs

soak: ## a million random histories of the drain, and a thousand of the binary in Pods of network namespaces (an hour)
	go test ./drain -run TestRandomHistories -rapid.checks=1000000 -rapid.seed=$${SEED:-$$(date +%s)} -timeout 3h
	cd test && go test ./world -v -count=1 -timeout 3h -run '^TestRandomHistoriesOfAPod$$' -histories $${HISTORIES:-1000}

fuzz: ## every parser of what comes from outside, FUZZTIME each
	test/fuzz.sh $${FUZZTIME:-30s}

bench: ## the figures of the design
	go test ./... -run '^$$' -bench . -benchtime $${BENCHTIME:-1s} -timeout 1h
	cd test && go test ./... -run '^$$' -bench . -benchtime $${BENCHTIME:-1s} -timeout 1h

docs: ## what the pages have from the program: the settings from the flags, the versions from the tests that ran
	go test ./internal/cli -count=1 -run '^(TestTheConfigurationPageIsTheFlags|TestTheCompatibilityPageIsWhatRan)$$' -update-docs

charts: ## what comes from the charts: deploy/inject*.yaml and the grace period's policy, the settings in their schemas, the golden files
	cd test && go test ./chart -count=1 -update

lint: ## gofmt, vet, staticcheck; also of the tests that only test-all runs; actionlint
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./... && (cd test && go vet ./... && go vet -tags all ./...) && (cd test/monitoring && go vet ./...)
	go run $(STATICCHECK) ./... && (cd test && go run $(STATICCHECK) -tags all ./...) && (cd test/monitoring && go run $(STATICCHECK) ./...)
	go run $(ACTIONLINT) .github/workflows/*.yml

vulncheck: ## needs the vulnerability database from the network
	go run $(GOVULNCHECK) ./...

image: ## the container image, prestop:VERSION, by BuildKit; GO_IMAGE names another build image
	DOCKER_BUILDKIT=1 docker build $${GO_IMAGE:+--build-arg GO_IMAGE=$$GO_IMAGE} --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg SOURCE=$(SOURCE) \
	  --build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) -t prestop:$(VERSION) .

images: ## the image for every platform, prestop:VERSION, by buildx; PUSH=--push sends it to the registry that IMAGE names
	docker buildx build --platform linux/amd64,linux/arm64 $${GO_IMAGE:+--build-arg GO_IMAGE=$$GO_IMAGE} --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg SOURCE=$(SOURCE) \
	  --build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) --provenance=mode=max --sbom=true -t $${IMAGE:-prestop}:$(VERSION) $(PUSH) .

manifests: ## deploy/ with the names IMAGE (registry/repository) and VERSION, and SOURCE (https://…) if given, in dist/manifests
	go run ./release manifests "$(IMAGE)" "$(VERSION)" "$(SOURCE)" dist/manifests

release: ## what is published, in dist/: static binaries with manual and completions, SBOMs, checksums; with IMAGE also manifests and charts
	VERSION="$(VERSION)" COMMIT="$(COMMIT)" IMAGE="$(IMAGE)" SOURCE="$(SOURCE)" release/build.sh

reproducible: ## the release made twice, the second time elsewhere and with an empty cache: the same bytes
	VERSION="$(VERSION)" COMMIT="$(COMMIT)" IMAGE="$(IMAGE)" SOURCE="$(SOURCE)" release/reproducible.sh

push-charts: ## the charts of the release in dist/ to the registry path CHARTS, oci://…; PLAIN=--plain-http for one without TLS
	helm=$$(go -C test run ./tools/build helm); for chart in dist/prestop-*.tgz; do "$$helm" push "$$chart" "$(CHARTS)" $(PLAIN); done

sign: ## the checksums of the release, and what IMAGE and CHARTS name, by cosign; with KEY, else with the identity of the workflow
	VERSION="$(VERSION)" IMAGE="$(IMAGE)" CHARTS="$(CHARTS)" KEY="$(KEY)" release/sign.sh

verify: ## the same, by the public KEY, else by IDENTITY and ISSUER
	VERSION="$(VERSION)" IMAGE="$(IMAGE)" CHARTS="$(CHARTS)" KEY="$(KEY)" release/sign.sh verify

github-release: ## dist/ as a release of the tag VERSION, by GitHub's gh
	gh release create "$(VERSION)" --verify-tag --notes "See CHANGELOG.md." dist/*

clean:
	rm -rf prestop bin dist demo/out
