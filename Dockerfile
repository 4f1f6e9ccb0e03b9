# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep what is downloaded and built between builds of the image; the binary has
# to leave them, since they are no part of a layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --package watchbill --profile dist --locked \
    && install -D target/dist/watchbill /out/watchbill

FROM debian:bookworm-slim
# The system's root certificates are what TLS to providers and webhooks is proved against.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home watchbill \
    && install -d -o watchbill -g watchbill -m 0700 /data
COPY --from=build /out/watchbill /usr/local/bin/watchbill
USER 10001:10001
ENV WATCHBILL_DATA=/data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["watchbill", "health", "--url", "http://127.0.0.1:8000"]
ENTRYPOINT ["watchbill"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
