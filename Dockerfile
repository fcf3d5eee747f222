# syntax=docker/dockerfile:1
# One image, three binaries: errand, errand-api, errand-worker. Which of them runs is the command.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
ARG TARGETPLATFORM
# The caches stay on the building machine, so the binaries are copied out within the same step. One
# target folder per platform, and one build at a time in it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=errand-target-${TARGETPLATFORM},sharing=locked \
    cargo build --release --locked -p errand -p errand-api -p errand-worker \
    && install -D -t /out target/release/errand target/release/errand-api target/release/errand-worker

FROM debian:bookworm-slim
# ca-certificates: TLS trusts the system's authorities. wget: health checks, see docker-compose.yml.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates wget \
    && rm -rf /var/lib/apt/lists/*
# A fixed id, so that mounted files can be made readable for it.
RUN groupadd --gid 10001 errand \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/errand \
        --shell /usr/sbin/nologin errand \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/errand
COPY --from=build /out/ /usr/local/bin/
# Relative paths of the configuration (sqlite://.errand/errand.db, workflows) start here.
WORKDIR /var/lib/errand
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["errand", "--help"]
