# The program `millhand` in an image of its own: docker build -t millhand .
FROM rust:1-slim-trixie AS builder
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p millhand-cli

FROM debian:trixie-slim
# Nobody's number, and a folder for `sqlite:` files. Behind RabbitMQ and Redis nothing is written at
# all: the root file system may be read-only, with a tmpfs at /tmp.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin millhand \
    && install -d -o millhand -g millhand /data
COPY --from=builder /src/target/release/millhand /usr/local/bin/millhand
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["millhand"]
