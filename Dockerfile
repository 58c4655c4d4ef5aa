# One binary, the libraries that it needs, and nothing else; not run as root, and content with a root that cannot be written to.
#
#   docker build --target built -t thalweg .     compiles it here, from Cargo.lock
#   deploy/image BINARY TAG                      takes a binary that was built outside: no registry is reached

FROM scratch AS base
ENV THALWEG_DATA_DIR=/var/lib/thalweg
USER 65532:65532
# Clients and brokers; controllers and coordinators listen on 9490 and 9590.
EXPOSE 9292 9392
# Asks the standard health service on the port that THALWEG_LISTEN names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["/thalweg", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/thalweg"]

# The context is what deploy/image put together: root/ and an empty data/.
FROM base AS outside
COPY root/ /
COPY --chown=65532:65532 data/ /var/lib/thalweg/

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Paths of this machine stay out of the binary, so that the same sources give the same one.
RUN RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=$CARGO_HOME=cargo" cargo build --release --locked --bin thalweg \
    && deploy/image-root target/release/thalweg /image

FROM base AS built
COPY --from=build /image/root/ /
COPY --from=build --chown=65532:65532 /image/data/ /var/lib/thalweg/
