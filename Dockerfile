# The image is prestop, the CA roots and the licences of what it is built from, nothing else: no shell, no libc, no user database.
#
#   docker build --build-arg VERSION=1.2.3 -t prestop:1.2.3 .
#
# The same sources, VERSION, SOURCE_DATE_EPOCH and GO_IMAGE (give it by digest) make the same layers, bit for bit: paths are
# trimmed, no commit is stamped in, and every file carries SOURCE_DATE_EPOCH as its time.
ARG GO_IMAGE=docker.io/library/golang:1.26

# The build runs on the builder's own architecture and cross-compiles; nothing here is emulated.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG VERSION=dev
ARG COMMIT=
ARG SOURCE_DATE_EPOCH=0
ARG TARGETOS
ARG TARGETARCH
WORKDIR /src
COPY . .
# nethttpomithttp2: the kubelet, Eureka and Nacos all speak HTTP/1.1 to us, and the tag saves half a megabyte in every Pod.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -tags nethttpomithttp2 \
      -ldflags "-s -w -buildid= -X main.version=$VERSION -X main.commit=$COMMIT" -o /image/prestop . \
 && mkdir -p /image/etc/ssl/certs \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && go run ./release licenses /image/prestop >/image/THIRD-PARTY-LICENSES \
 && chmod -R u=rwX,go=rX /image \
 && find /image -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

FROM scratch
ARG VERSION=dev
ARG COMMIT=
ARG SOURCE=
LABEL org.opencontainers.image.title="prestop" \
      org.opencontainers.image.description="Stops a Kubernetes Pod without losing a request" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.url="$SOURCE" \
      org.opencontainers.image.documentation="$SOURCE"
COPY --from=build /image /
# A number, so that runAsNonRoot can be checked; no file belongs to it.
USER 65532:65532
EXPOSE 8090
ENTRYPOINT ["/prestop"]
