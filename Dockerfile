# syntax=docker/dockerfile:1
# ssmfwd as an image: one static program, the roots of TLS, no shell, not root.
#
#   docker build --tag ssmfwd --build-arg SSMFWD_COMMIT="$(git rev-parse HEAD)" .
#   docker run --rm --network host -v ~/.aws:/home/ssmfwd/.aws ssmfwd 13306:db:3306 -t i-0123456789abcdef0
#
# On a network of its own it must listen on all of its addresses: *:13306:db:3306, and -p 127.0.0.1:13306:13306.

FROM rust:1-alpine AS build
# For the C parts of aws-lc, and the roots that are copied below. On musl Rust links statically.
RUN apk add --no-cache build-base ca-certificates cmake linux-headers perl
WORKDIR /src
COPY . .
# The folder .git is not part of the context: the commit comes from outside, or is not known.
ARG SSMFWD_COMMIT=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    SSMFWD_COMMIT="$SSMFWD_COMMIT" cargo build --locked --profile dist --bin ssmfwd \
    && cp target/dist/ssmfwd /ssmfwd
# Where credentials are read, and the token of a login is kept.
RUN mkdir -p /home/ssmfwd/.aws && chown -R 65532:65532 /home/ssmfwd \
    && printf 'ssmfwd:x:65532:65532::/home/ssmfwd:/ssmfwd\n' > /etc/passwd.ssmfwd

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /etc/passwd.ssmfwd /etc/passwd
COPY --from=build --chown=65532:65532 /home/ssmfwd /home/ssmfwd
COPY --from=build /ssmfwd /ssmfwd
ENV HOME=/home/ssmfwd
WORKDIR /home/ssmfwd
USER 65532:65532
# SIGTERM, which docker stop sends, drains and ends the sessions.
ENTRYPOINT ["/ssmfwd"]
